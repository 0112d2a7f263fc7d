"""Added tokens: found where Hugging Face finds them; special ones only if the call allows it."""

import json
import random
import time

import pytest

from byhand.errors import UserError
from byhand.text.pipeline import PipelineTokenizer
from tests.text.parts import added_token, bpe, byte_bpe, description

LETTERS = "abc<>|  \né日🙂_."


def random_description(numbers: random.Random) -> dict:
    """A BPE of characters with random merges, and random added tokens."""
    vocab = ["<unk>", *"abc<>| \né日"]
    merges = []
    for _ in range(15):
        left, right = numbers.choices(vocab[1:], k=2)
        if left + right not in vocab:
            vocab.append(left + right)
            merges.append([left, right])
    model = bpe(vocab, merges, unk_token="<unk>", fuse_unk=numbers.random() < 0.5)
    contents = {"".join(numbers.choices(LETTERS, k=numbers.randrange(1, 5))) for _ in range(6)}
    added, next_id = [], len(vocab)
    for content in sorted(contents):
        known = content in vocab
        id = vocab.index(content) if known else next_id
        next_id += not known
        names = ("single_word", "lstrip", "rstrip", "normalized", "special")
        added.append(added_token(id, content, **{name: numbers.random() < 0.4 for name in names}))
    added.sort(key=lambda token: token["id"])
    lower = numbers.choice([None, None, {"type": "Prepend", "prepend": "a"}, {"type": "NFD"}])
    return description(model, added, normalizer=lower)


def check_against_hugging_face(seed: int, rounds: int) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    numbers = random.Random(seed)
    found = 0
    for _ in range(rounds):
        data = random_description(numbers)
        ours = PipelineTokenizer(data)
        theirs = tokenizers.Tokenizer.from_str(json.dumps(data))
        names = {token["id"] for token in data["added_tokens"]}
        for _ in range(20):
            text = "".join(numbers.choices(LETTERS, k=numbers.randrange(30)))
            theirs.encode_special_tokens = False
            try:
                right = theirs.encode(text)
            except BaseException as error:  # where two tokens want the same white space it panics
                if "bad split" not in str(error):
                    raise
                continue
            ids = ours.encode(text, allowed_special="all").tolist()
            assert ids == right.ids, (text, data)
            offsets = ours.offsets(text, allowed_special="all").tolist()
            assert offsets == [list(pair) for pair in right.offsets], (text, data)
            # It decodes a normalised token as its normalised content, which may not be special.
            for skip in (True, False) if data["normalizer"] is None else ():
                assert ours.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip)
            found += not names.isdisjoint(ids)
    assert found > rounds


def test_equal_to_hugging_face():
    check_against_hugging_face(seed=0, rounds=200)


@pytest.mark.deep
def test_equal_to_hugging_face_on_many():
    check_against_hugging_face(seed=1, rounds=5000)


def test_a_text_that_spells_a_special_token_is_ordinary_text():
    tokenizer = PipelineTokenizer(byte_bpe(special=["<s>", "</s>", "<s>x"]))
    text = "a<s>x</s>"
    assert tokenizer.encode(text).tolist() == list(text.encode())
    assert tokenizer.encode(text, allowed_special=["<s>"]).tolist() == [97, 256, 120, *b"</s>"]
    assert tokenizer.encode(text, allowed_special="all").tolist() == [97, 258, 257]
    assert tokenizer.encode(text, allowed_special="</s>").tolist() == [*b"a<s>x", 257]
    rows = tokenizer.encode_batch([text, "b"], allowed_special=["</s>"])
    assert [row.tolist() for row in rows] == [[*b"a<s>x", 257], [98]]
    assert tokenizer.decode([97, 258, 257]) == "a"
    assert tokenizer.decode([97, 258, 257], skip_special_tokens=False) == text


def test_models_make_no_special_token_of_a_text():
    """Even where the model's own vocabulary has it."""
    vocab = {"[UNK]": 0, "[CLS]": 1, "a": 2}
    special = [added_token(0, "[UNK]"), added_token(1, "[CLS]")]
    for kind in ("WordLevel", "WordPiece"):
        model = {"type": kind, "vocab": vocab, "unk_token": "[UNK]"}
        split = {"type": "WhitespaceSplit"}
        tokenizer = PipelineTokenizer(description(model, special, pre_tokenizer=split))
        assert tokenizer.encode("a [CLS] a").tolist() == [2, 0, 2]
        assert tokenizer.encode("a [CLS] a", allowed_special="all").tolist() == [2, 1, 2]
    pieces = [["[UNK]", 0], ["<s>", 0], ["<", -1], ["s", -1], [">", -1]]
    model = {"type": "Unigram", "vocab": pieces, "unk_id": 0}
    tokenizer = PipelineTokenizer(description(model, [added_token(1, "<s>")]))
    assert tokenizer.encode("<s>").tolist() == [2, 3, 4]
    assert tokenizer.encode("<s>", allowed_special=["<s>"]).tolist() == [1]


def test_tokens_that_are_not_special_are_always_found():
    data = byte_bpe()
    data["added_tokens"] = [added_token(256, "new", special=False, single_word=True)]
    tokenizer = PipelineTokenizer(data)
    assert tokenizer.encode("a new newer new").tolist() == [
        *b"a ",
        256,
        *b" newer ",
        256,
    ]
    assert tokenizer.decode([256]) == "new"


def test_an_unknown_name_is_refused():
    tokenizer = PipelineTokenizer(byte_bpe(special=["<s>"]))
    with pytest.raises(UserError, match=r"there is no special token '<S>' \(did you mean <s>\?\)"):
        tokenizer.encode("a", allowed_special=["<S>"])


@pytest.mark.parametrize("content", ["\n", " ", "a", "aaaaaaaa", "ab"])
@pytest.mark.parametrize("strip", [{}, {"lstrip": True}, {"rstrip": True, "lstrip": True}])
def test_time_is_linear(content, strip):
    """For texts that a token matches often. With time in the square of the length, 32 times the
    text would take a thousand times as long.
    """
    data = byte_bpe()
    id = data["model"]["vocab"].get(content, 256)
    data["added_tokens"] = [added_token(id, content, special=False, **strip)]
    tokenizer = PipelineTokenizer(data)

    def seconds(text: str) -> float:  # of the processor: the machine may be busy
        start = time.process_time()
        tokenizer.encode(text)
        return time.process_time() - start

    for unit in (content, content[0], content[0] + " ", " " + content[:-1]):
        text = unit * (25_000 // len(unit))
        assert seconds(32 * text) < 150 * min(seconds(text) for _ in range(3)) + 0.1
