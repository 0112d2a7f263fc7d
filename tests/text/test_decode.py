"""Decoders: equal to Hugging Face's on random tokens, one sentence for a wrong description."""

import json
import random

import pytest

from byhand.errors import UserError
from byhand.text import decode

PARTS = [
    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    {"type": "BPEDecoder", "suffix": "</w>"},
    {"type": "WordPiece", "prefix": "##", "cleanup": True},
    {"type": "WordPiece", "prefix": "@", "cleanup": False},
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    {"type": "Metaspace", "replacement": "_", "prepend_scheme": "never", "split": True},
    {"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": True},
    {"type": "CTC", "pad_token": "a", "word_delimiter_token": "|", "cleanup": False},
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
    {"type": "Replace", "pattern": {"Regex": "a+"}, "content": r"\1"},
    {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    {"type": "ByteFallback"},
]
CHAINS = [[part] for part in PARTS] + [
    [PARTS[8], PARTS[12], PARTS[10], PARTS[11]],  # Llama's
    [PARTS[1], PARTS[2]],
    [PARTS[6], PARTS[4], PARTS[8]],
]
LETTERS = ["a", "b", "##", "</w>", "▁", "_", " ", "<pad>", "|", "Ġ", "Ã", "©", "é", "日", "🙂"]
LETTERS += ["<0xE6>", "<0x97>", "<0xA5>", "<0x41>", "<0x4G>", " .", " '", " n't", "@", "do", " not"]


def random_tokens(random: random.Random) -> list[str]:
    tokens = []
    for _ in range(random.randrange(8)):
        tokens.append("".join(random.choices(LETTERS, k=random.randrange(1, 4))))
        if random.random() < 0.3:  # on its own, as the bytes of byte fallback are
            tokens.append(random.choice(LETTERS))
        if random.random() < 0.2:
            tokens.append(tokens[-1])
    return tokens


@pytest.mark.parametrize("chain", CHAINS, ids=lambda c: "+".join(part["type"] for part in c))
def test_equal_to_hugging_face(chain):
    tokenizers = pytest.importorskip("tokenizers")
    description = chain[0] if len(chain) == 1 else {"type": "Sequence", "decoders": chain}
    ours = decode.make(description)
    model = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
    file = {"version": "1.0", "added_tokens": [], "decoder": description, "model": model}
    theirs = tokenizers.Tokenizer.from_str(json.dumps(file)).decoder
    numbers = random.Random(0)
    different = 0
    for _ in range(3000):
        tokens = random_tokens(numbers)
        text = theirs.decode(list(tokens)) if tokens else ""
        assert ours.decode(tokens) == text, tokens
        different += text != "".join(tokens)
    assert different > 100 or chain == [{"type": "Fuse"}]  # it does something to these tokens


def test_without_a_decoder_tokens_are_joined_with_spaces():
    assert decode.make(None).decode(["a", "b"]) == "a b"


def test_strip_takes_at_most_its_numbers_of_characters():
    part = {"type": "Strip", "content": "x", "start": 2, "stop": 1}
    assert decode.make(part).decode(["xxxaxx"]) == "xax"
    assert decode.make(part).decode(["xx", "", "x"]) == ""


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"type": "Nonsense"}, "the decoder 'Nonsense' is not supported"),
        ({"type": ["a"]}, "a decoder must be an object with a type"),
        ({}, "a decoder must be an object with a type"),
        ({"type": "Strip", "content": "ab"}, '"content" of the decoder Strip is one character'),
        ({"type": "Strip", "content": "a", "start": -1}, '"start" of the decoder Strip'),
        ({"type": "Strip", "content": "a", "stop": True}, '"stop" of the decoder Strip'),
        ({"type": "WordPiece", "prefix": 3}, '"prefix" of the decoder WordPiece cannot be 3'),
        ({"type": "Metaspace", "prepend_scheme": "often"}, "prepend_scheme of Metaspace"),
        ({"type": "Replace", "pattern": {}, "content": ""}, "a String or a Regex"),
        ({"type": "Replace", "pattern": {"Regex": "("}, "content": ""}, "'(' is wrong"),
        ({"type": "Sequence"}, "Sequence: decoders must be a list"),
        ({"type": "Sequence", "decoders": [3]}, "a decoder must be an object with a type"),
    ],
)
def test_a_wrong_description_is_one_sentence(part, message):
    with pytest.raises(UserError) as error:
        decode.make(part)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
