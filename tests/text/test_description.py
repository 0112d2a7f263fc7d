"""Descriptions of tokenizers: every field is checked, and what is wrong is one sentence."""

import copy
import json
import random
from typing import Any

import pytest

from byhand.errors import UserError
from byhand.text.description import checked, vocabulary
from byhand.text.pipeline import PipelineTokenizer
from tests.text.parts import added_token, bpe, byte_bpe, description, word_level

SMALL = byte_bpe([("a", "b"), ("ab", "c")], ["<s>"])
UNIGRAM = description(
    {"type": "Unigram", "unk_id": 0, "byte_fallback": False, "vocab": [["<unk>", 0], ["a", -1]]}
)


def changed(where: str, value: Any, base: dict[str, Any] = SMALL) -> dict[str, Any]:
    """A copy of a description in which the field at a path such as "model.unk_token" differs."""
    data = copy.deepcopy(base)
    *folders, name = where.split(".")
    place: Any = data
    for folder in folders:
        place = place[int(folder) if isinstance(place, list) else folder]
    place[int(name) if isinstance(place, list) else name] = value
    return data


def test_a_checked_description_is_complete_and_stays_the_same():
    short = {"model": {"type": "BPE", "vocab": {"b": 1, "a": 0}}}
    full = checked(short)
    assert list(full["model"]["vocab"]) == ["a", "b"]
    assert full["model"]["merges"] == []
    assert full["decoder"] is None
    assert checked(full) == full
    assert json.loads(json.dumps(full)) == full
    assert vocabulary(full["model"]) == ["a", "b"]


def test_merges_are_texts_unless_a_token_has_a_space():
    vocab = ["a", "b", "ab", " ", "a "]
    pairs = [["a", "b"]]
    assert checked(description(bpe(vocab, pairs)))["model"]["merges"] == ["a b"]
    assert checked(description(bpe(vocab, [*pairs, ("a", " ")])))["model"]["merges"] == [
        ["a", "b"],
        ["a", " "],
    ]


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ({"vocab": {"a": 0}, "merges": []}, "BPE"),
        ({"vocab": [["a", 0.0]]}, "Unigram"),
        ({"vocab": {"a": 0}, "max_input_chars_per_word": 10}, "WordPiece"),
        ({"vocab": {"a": 0}}, "WordLevel"),
    ],
)
def test_older_files_do_not_name_the_type(model, kind):
    assert checked({"model": model})["model"]["type"] == kind


DEEP: Any = None
for _ in range(100):
    DEEP = {"type": "Sequence", "normalizers": [DEEP or {"type": "NFC"}]}

WRONG = [
    (None, 'has no "model"'),
    ([], 'has no "model"'),
    ({"model": []}, 'has no "model"'),
    (changed("model.type", "Nonsense"), "the model type 'Nonsense' is unknown"),
    (changed("model.type", []), "the model type [] is unknown"),
    (changed("model.vocab", []), "does not map tokens to ids"),
    (changed("model.vocab", {"a": -1}), "has the id -1"),
    (changed("model.vocab", {"a": 0, "b": 0}), "has the id 0 twice"),
    (changed("model.vocab", {"a": 1.0}), "has the id 1.0"),
    (changed("model.vocab", {"a": True}), "has the id True"),
    (changed("model.vocab", {"a": 2**31 - 1}), "whole numbers below 1028"),
    (changed("model.vocab", {"\ud800": 0}), "half of a surrogate pair"),
    (changed("model.merges", 3), '"merges" of a BPE model are a list'),
    (changed("model.merges", ["a"]), "merge 0 of a BPE model is not two tokens: 'a'"),
    (changed("model.merges", ["a b", "a b c"]), "merge 1 of a BPE model is not two tokens"),
    (changed("model.merges", [["a", 1]]), "merge 0 of a BPE model is not two tokens"),
    (changed("model.merges", ["a z"]), "needs the token 'az', which is not in the vocab"),
    (changed("model.unk_token", 3), 'the "unk_token" of a BPE model cannot be 3'),
    (changed("model.fuse_unk", None), 'the "fuse_unk" of a BPE model cannot be None'),
    (changed("model.dropout", 2), "the dropout of a BPE model is between 0 and 1: 2"),
    (changed("model.dropout", True), 'the "dropout" of a BPE model cannot be True'),
    (changed("added_tokens", {}), '"added_tokens" of a tokenizer are a list of objects'),
    (changed("added_tokens.0.content", ""), "an added token has no content"),
    (changed("added_tokens.0.content", None), "the content of an added token is a text, not None"),
    (changed("added_tokens.0.content", "x" * 1001), "is longer than 1000 bytes"),
    (changed("added_tokens.0.content", "ab"), "'ab' has the id 258, and in the model 256"),
    (changed("added_tokens.0.id", 65), "the added token '<s>' has the id 65 of the model's token"),
    (changed("added_tokens.0.id", -1), "the id of the added token '<s>' cannot be -1"),
    (changed("added_tokens.0.id", 10**9), "has the id 1000000000"),
    (changed("added_tokens.0.special", 1), "\"special\" of the added token '<s>'"),
    (changed("added_tokens", [added_token(258, "xy")] * 2), "'xy' is listed twice"),
    (changed("added_tokens", [added_token(258, c) for c in "\x01\x02"]), "the id 258 twice"),
    (changed("padding", {"direction": "Up"}), 'the direction of "padding" is Left or Right'),
    (changed("padding", {"pad_id": 2**31}), 'the pad_id of "padding" is a whole number'),
    (changed("truncation", {"max_length": -1}), 'the max_length of "truncation" is a whole number'),
    (changed("normalizer", []), 'the "normalizer" of a tokenizer is an object or null'),
    (changed("normalizer", {"type": "Nonsense"}), "the normalizer 'Nonsense' is not supported"),
    (changed("normalizer", DEEP), "nests sequences more than 64 deep"),
    (changed("pre_tokenizer", {"type": "Nonsense"}), "pre_tokenizer 'Nonsense' is not supported"),
    (changed("decoder", {"type": "Nonsense"}), "the decoder 'Nonsense' is not supported"),
    (changed("post_processor", {"type": "No"}), "the post-processor 'No' is not supported"),
    (changed("model.vocab", {}, UNIGRAM), '"vocab" of a Unigram model is a list of pairs'),
    (changed("model.vocab.1", ["a"], UNIGRAM), "a list of pairs of a token and a number"),
    (changed("model.vocab.1", ["a", 10**400], UNIGRAM), "a list of pairs of a token and a number"),
    (changed("model.unk_id", 2, UNIGRAM), "the unk_id 2 of a Unigram model is not in its vocab"),
    (changed("model.vocab.1.0", "<unk>", UNIGRAM), "'<unk>'"),
    (changed("model.vocab", {}, word_level(["a"])), "the vocabulary of the tokenizer is empty"),
]


@pytest.mark.parametrize(("data", "message"), WRONG, ids=[message for _, message in WRONG])
def test_a_wrong_description_is_one_sentence(data, message):
    with pytest.raises(UserError) as error:
        PipelineTokenizer(data)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in nested lists and dicts."""
    found = [path] if path else []
    if isinstance(data, dict | list):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            found += places(value, (*path, key))
    return found


FULL = description(
    bpe(["a", "b", "ab", "</s>", "<0x41>"], ["a b"], unk_token="a", byte_fallback=True),
    [added_token(3, "</s>"), added_token(5, "x", normalized=True, special=False)],
    normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]},
    pre_tokenizer={
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True},
            {"type": "Split", "pattern": {"String": "-"}, "behavior": "Isolated", "invert": False},
        ],
    },
    post_processor={
        "type": "TemplateProcessing",
        "single": [
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "e", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": i, "type_id": 0}} for i in "AB"],
        "special_tokens": {"e": {"id": "e", "ids": [3], "tokens": ["</s>"]}},
    },
    decoder={"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
)
VALUES: list[Any] = [None, True, 0, 1, -1, 2**31, 2**63, 10**400, 0.5, 1e308, "", "a", "\ud800"]
VALUES += [[], [1], ["a", "b"], {}, {"type": "Sequence"}, {"a": 0}, {"type": "NFC"}, "▁", "é日"]


def test_no_change_of_a_field_is_worse_than_a_sentence():
    """Each field of a description in turn gets every value, or is left out."""
    survived = 0
    for path in places(FULL):
        for value in [*VALUES, "removed"]:
            data = copy.deepcopy(FULL)
            place: Any = data
            for key in path[:-1]:
                place = place[key]
            if value == "removed":
                del place[path[-1]]
            else:
                place[path[-1]] = value
            survived += encodes_or_refuses(data)
    assert 50 < survived < len(places(FULL)) * len(VALUES) / 2


@pytest.mark.deep
def test_no_random_changes_are_worse_than_a_sentence():
    numbers = random.Random(0)
    for _ in range(20000):
        data = copy.deepcopy(FULL)
        for _ in range(numbers.randrange(1, 5)):
            path = numbers.choice(places(data))
            place: Any = data
            for key in path[:-1]:
                place = place[key]
            value = numbers.choice(VALUES)
            if numbers.random() < 0.3:  # a part of the description at another place
                value = data
                for key in numbers.choice(places(data)):
                    value = value[key]
            place[path[-1]] = copy.deepcopy(value)
        encodes_or_refuses(data)


def encodes_or_refuses(data: object) -> bool:
    """Whether a description makes a tokenizer, which then encodes and decodes something."""
    try:
        tokenizer = PipelineTokenizer(data)
    except UserError as error:
        return "\n" in str(error) and pytest.fail(str(error))
    try:
        ids = tokenizer.encode("ab x-</s> Aé🙂", allowed_special="all")
    except UserError:  # a character without a token
        return True
    assert ((ids >= 0) & (ids < len(tokenizer))).all()
    assert isinstance(tokenizer.decode(ids), str)
    tokenizer.encode_batch(["a", "ba"], truncation=True, max_length=9)
    assert PipelineTokenizer(tokenizer.description).sha256() == tokenizer.sha256()
    return True
