"""Pre-tokenizers: words of texts of many scripts, beside the regular expressions that the scanners
stand for, tiktoken and Hugging Face's tokenizers; offsets; descriptions that are wrong.
"""

import json
import random
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from byhand import _text
from byhand.errors import UserError
from byhand.text import pretokenise
from byhand.text.pretokenise import PATTERNS
from tests.text.parts import huggingface, random_texts
from tests.text.unicode_versions import OLDER_TABLES, PIECES, assigned

BEHAVIOURS = ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")
TIKTOKEN = {  # as tiktoken 0.14 spells them
    "gpt2": (r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"),
    "gpt4": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+|"
        r" ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
    ),
}


def sequence(*members: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(members)}


def metaspace(scheme: str, split: bool = True) -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}


def byte_level(prefix: bool, use_regex: bool = True) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": prefix} | {
        "trim_offsets": True,
        "use_regex": use_regex,
    }


DIGITS = {"type": "Digits", "individual_digits": True}
KINDS: list[dict[str, Any]] = [
    {"type": "BertPreTokenizer"},
    {"type": "Whitespace"},
    {"type": "WhitespaceSplit"},
    {"type": "CharDelimiterSplit", "delimiter": "a"},
    DIGITS,
    {"type": "Digits", "individual_digits": False},
    {"type": "FixedLength", "length": 3},
    byte_level(True),
    byte_level(False),
    byte_level(True, use_regex=False),
    *(
        metaspace(scheme, split)
        for scheme in ("always", "first", "never")
        for split in (True, False)
    ),
    *({"type": "Punctuation", "behavior": behaviour} for behaviour in BEHAVIOURS),
    *(
        {"type": "Split", "pattern": pattern, "behavior": behaviour, "invert": invert}
        for pattern in (
            {"String": " "},
            {"String": "//"},
            {"Regex": r"\s+"},
            {"Regex": r"[aeiou]|\d+"},
            {"Regex": "[a-z]*"},
            {"Regex": " {2,}"},
            {"Regex": PATTERNS["gpt4"]},
        )
        for behaviour in BEHAVIOURS
        for invert in (True, False)
    ),
    *(sequence({"type": "WhitespaceSplit"}, metaspace(s)) for s in ("always", "first", "never")),
    sequence(DIGITS, byte_level(True)),
    sequence(DIGITS, byte_level(False)),
    sequence({"type": "Punctuation"}, metaspace("always"), sequence(DIGITS)),
    sequence(metaspace("always"), {"type": "Punctuation"}, byte_level(True)),
]


def divide(made: pretokenise.Made, text: str) -> list[tuple[bytes, tuple[int, int]]]:
    """The words and where they come from, in characters of the text."""
    original = text.encode()
    changed, origin = _text.normalise(made.normalisers, original, True)
    assert origin is not None
    position = np.cumsum([0] + [(byte & 0xC0) != 0x80 for byte in original[1:]] + [1])
    return [
        (changed[begin:end], (position[origin[begin, 0]], position[origin[end - 1, 1]]))
        for begin, end in _text.split(made.pretokenizers, changed)
    ]


def words(pretokenizer: _text.PreTokenizer, text: str) -> list[str]:
    encoded = text.encode()
    return [encoded[begin:end].decode() for begin, end in _text.split([pretokenizer], encoded)]


def printable_bytes() -> dict[str, int]:
    """GPT-2's alphabet: the character that stands for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}


def check_huggingface(description: Any, texts: list[str]) -> None:
    theirs, made = huggingface("pre_tokenizer", description), pretokenise.make(description)
    alphabet = printable_bytes() if "ByteLevel" in json.dumps(description) else None
    for text in texts:
        expected = [
            (bytes(map(alphabet.__getitem__, word)) if alphabet else word.encode(), offsets)
            for word, offsets in theirs.pre_tokenize_str(text)
        ]
        assert divide(made, text) == expected, ascii(text)


@pytest.mark.parametrize("name", PATTERNS)
def test_scanners_equal_the_expressions(name: str):
    regex = pytest.importorskip("regex")
    characters = assigned()
    texts = ["".join(characters), "".join(f"{c} {c}\n" for c in characters[::7])]
    texts += [a + b for a in PIECES for b in PIECES]
    texts += random_texts(1500, PIECES * 20 + characters[::31], 1)
    scanner = _text.named_pattern(name)
    for pattern in {PATTERNS[name], TIKTOKEN.get(name, PATTERNS[name])}:
        find = regex.compile(pattern).findall
        for text in texts:
            assert words(scanner, text) == find(text), ascii(text[:100])


@pytest.mark.deep
@pytest.mark.parametrize("name", PATTERNS)
def test_scanners_equal_the_expressions_on_millions_of_characters(name: str):
    regex = pytest.importorskip("regex")
    find = regex.compile(PATTERNS[name]).findall
    scanner = _text.named_pattern(name)
    for text in random_texts(120_000, PIECES * 20 + assigned()[::31], 2):
        assert words(scanner, text) == find(text), ascii(text)


@pytest.mark.parametrize("name", PATTERNS)
def test_scanners_equal_tiktoken(name: str):
    tiktoken = pytest.importorskip("tiktoken")
    text = "".join(random_texts(300, PIECES * 20 + assigned()[::31], 3))
    found = [word.encode() for word in words(_text.named_pattern(name), text)]
    # Each word has an id of its own, so the ids are one a word only if tiktoken divides as we do.
    known = sorted({word for word in found if len(word) > 1})
    ranks = {bytes([byte]): byte for byte in range(256)}
    ranks |= {word: 256 + i for i, word in enumerate(known)}
    encoding = tiktoken.Encoding(
        "test", pat_str=TIKTOKEN.get(name, PATTERNS[name]), mergeable_ranks=ranks, special_tokens={}
    )
    assert [encoding.decode_single_token_bytes(i) for i in encoding.encode_ordinary(text)] == found


@pytest.mark.parametrize("name", [name for name in PATTERNS if name != "words"])
@given(text=st.text(st.sampled_from("aBé漢ʰ\u0301ǅ1½'sSlLrR\u017f /!\n\r\t\u3000😀"), max_size=40))
def test_words_cover_the_text(name: str, text: str):
    scanner = _text.named_pattern(name)
    found = words(scanner, text)
    assert "".join(found) == text
    assert all(found)


@pytest.mark.parametrize("name", PATTERNS)
def test_a_piece_is_divided_as_if_it_were_the_whole_text(name: str):
    scanner = _text.named_pattern(name)
    for text in random_texts(300, PIECES, 4):
        # Literal "|" divides what comes before and after without a word of context.
        joined = _text.Split(_text.Literal(b"|"), "removed")
        encoded = f"{text}|{text}|s".encode()
        found = [encoded[b:e].decode() for b, e in _text.split([joined, scanner], encoded)]
        assert found == [*words(scanner, text), *words(scanner, text), "s"]


@pytest.mark.parametrize("description", KINDS, ids=json.dumps)
def test_words_and_offsets_equal_huggingface(description):
    if "aeiou" in json.dumps(description) or "a-z" in json.dumps(description):
        pytest.importorskip("regex")
    check_huggingface(description, random_texts(80, PIECES, 5))


@pytest.mark.deep
@pytest.mark.parametrize("description", KINDS, ids=json.dumps)
def test_words_and_offsets_of_many_texts_equal_huggingface(description):
    pytest.importorskip("regex")
    older = set().union(*OLDER_TABLES.values())
    characters = [c for c in assigned() if c not in older]
    pieces = PIECES * 50 + random.Random(0).choices(characters, k=1000)
    check_huggingface(description, random_texts(3000, pieces, 6))


@pytest.mark.parametrize(
    ("description", "older"),
    [
        ({"type": "BertPreTokenizer"}, "punctuation"),
        ({"type": "Punctuation"}, "punctuation"),
        ({"type": "Digits", "individual_digits": True}, None),
        ({"type": "Whitespace"}, None),
        ({"type": "WhitespaceSplit"}, None),
    ],
    ids=str,
)
def test_every_character_equals_huggingface_but_for_its_older_tables(description, older):
    allowed = OLDER_TABLES.get(older, set())
    characters = assigned()
    theirs, made = huggingface("pre_tokenizer", description), pretokenise.make(description)
    tested = [c for c in characters if c not in allowed]
    for begin in range(0, len(tested), 2000):
        text = "q".join(tested[begin : begin + 2000])
        expected = [(word.encode(), offsets) for word, offsets in theirs.pre_tokenize_str(text)]
        assert divide(made, text) == expected


def test_the_older_table_differs_for_each_punctuation_character_that_is_listed():
    punctuation = {"type": "Punctuation"}
    theirs, made = huggingface("pre_tokenizer", punctuation), pretokenise.make(punctuation)
    for character in OLDER_TABLES["punctuation"] & set(assigned()):
        text = f"q{character}q"
        assert len(divide(made, text)) != len(theirs.pre_tokenize_str(text)), ascii(text)


def test_other_spellings_of_the_patterns_have_scanners(monkeypatch):
    monkeypatch.setitem(sys.modules, "regex", None)  # importing it fails
    for name, pattern in {**PATTERNS, **TIKTOKEN}.items():
        made = pretokenise.make(
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
        )
        assert len(made.pretokenizers) == 1, name
    with pytest.raises(UserError, match=r"needs the package regex: pip install 'byhand\[text\]'"):
        pretokenise.make({"type": "Split", "pattern": {"Regex": "[ab]"}, "behavior": "Isolated"})


def test_a_prefix_goes_before_the_first_piece_only_if_it_begins_the_text():
    made = pretokenise.make(sequence({"type": "WhitespaceSplit"}, metaspace("first")))
    assert [word.decode() for word, _ in divide(made, "a b")] == ["▁a", "b"]
    assert [word.decode() for word, _ in divide(made, " a b")] == ["a", "b"]


def test_a_function_that_finds_wrong_matches_is_an_error():
    for found in ([(0, 99)], [(2, 3), (0, 1)], [(-1, 1)], 5, [("a", "b")]):
        with pytest.raises(ValueError, match="match"):
            _text.split([_text.callback(lambda text, found=found: found)], "aéb".encode())

    def fails(text: str) -> list[tuple[int, int]]:
        raise KeyError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        _text.split([_text.callback(fails)], b"ab")


@pytest.mark.parametrize(
    ("description", "sentence"),
    [
        ([], "a pre_tokenizer must be an object with a type, not \\[\\]"),
        ({"type": "UnicodeScripts"}, "the pre_tokenizer 'UnicodeScripts' is not supported"),
        ({"type": "Sequence", "pretokenizers": {}}, "pretokenizers must be a list, not {}"),
        ({"type": "Split", "pattern": {"Regex": "a"}}, "behavior must be a string, which it lacks"),
        (
            {"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Kept"},
            "behavior is one of Removed, .*, not 'Kept'",
        ),
        (
            {"type": "Split", "pattern": {"Glob": "a"}, "behavior": "Removed"},
            "pattern must be an object with either a String or a Regex, not {'Glob': 'a'}",
        ),
        ({"type": "CharDelimiterSplit", "delimiter": "ab"}, "must be one character, not 'ab'"),
        ({"type": "CharDelimiterSplit"}, "delimiter must be a string, which it lacks"),
        ({"type": "Metaspace", "replacement": ""}, "Metaspace: replacement must be one character"),
        (metaspace("last"), "prepend_scheme is always, first or never, not 'last'"),
        ({"type": "FixedLength", "length": 0}, "FixedLength: words have at least 1 character"),
        ({"type": "FixedLength", "length": True}, "length must be a whole number, not True"),
        ({"type": "Digits", "individual_digits": "no"}, "must be true or false, not 'no'"),
    ],
    ids=str,
)
def test_a_wrong_description_is_one_sentence(description: Any, sentence: str):
    with pytest.raises(UserError, match=sentence):
        pretokenise.make(description)
