"""The character tokenizer: texts and ids are one to one, and anything else is a clear error."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from byhand.data import TextSource
from byhand.errors import UserError
from byhand.text import CharacterTokenizer, Tokenizer, make_tokenizer

characters = st.characters(exclude_categories=["Cs"])
texts = st.text(characters, min_size=1, max_size=200)


@given(texts)
def test_decode_undoes_encode(text: str):
    tokenizer = CharacterTokenizer.from_text(text)
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int64
    assert ids.shape == (len(text),)
    assert tokenizer.decode(ids) == text


@given(texts)
def test_ids_number_the_distinct_characters_in_code_point_order(text: str):
    tokenizer = CharacterTokenizer.from_text(text)
    ordered = sorted(set(text))
    assert list(tokenizer.vocabulary) == ordered
    assert tokenizer.encode(text).tolist() == [ordered.index(c) for c in text]
    assert len(tokenizer) == tokenizer.vocabulary_size == len(ordered)


@given(texts, st.lists(characters, max_size=20))
def test_json_keeps_every_id(text: str, more: list[str]):
    tokenizer = CharacterTokenizer.from_text(text + "".join(more))
    again = CharacterTokenizer.from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    assert again == tokenizer
    assert again.sha256() == tokenizer.sha256()
    assert again.encode(text).tolist() == tokenizer.encode(text).tolist()


@given(texts, texts)
def test_an_unknown_character_is_named_with_its_first_position(known: str, text: str):
    tokenizer = CharacterTokenizer.from_text(known)
    unknown = [i for i, c in enumerate(text) if c not in known]
    if not unknown:
        assert tokenizer.decode(tokenizer.encode(text)) == text
        return
    with pytest.raises(UserError) as error:
        tokenizer.encode(text)
    first = text[unknown[0]]
    assert f"{first!r} (U+{ord(first):04X}) at position {unknown[0]} " in str(error.value)


def test_the_empty_text_has_no_ids():
    tokenizer = CharacterTokenizer("ab")
    assert tokenizer.encode("").shape == (0,)
    assert tokenizer.decode([]) == ""
    assert tokenizer.decode(tokenizer.encode("")) == ""


def test_nul_and_byte_order_marks_are_ordinary_characters():
    text = "\x00a\ufeff\U0001f600\r\n"
    tokenizer = CharacterTokenizer.from_text(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([0, 1, 3], "token id 3 at position 2 is outside the vocabulary 0..2"),
        ([0, -1], "token id -1 at position 1"),
        ([0.5], "whole numbers, not float64"),
        ([[0, 1]], "2 axes"),
    ],
)
def test_decode_refuses_invalid_ids(ids: list, words: str):
    with pytest.raises(UserError, match=words):
        CharacterTokenizer("abc").decode(ids)


@pytest.mark.parametrize(
    ("vocabulary", "words"),
    [
        ("", "at least one character"),
        (["ab"], "single characters, not 'ab'"),
        ([3], "single characters, not 3"),
        ("abca", "'a' .U.0061. twice"),
        ("a\ud800", "surrogate"),
        ("\udfff", "surrogate"),
    ],
)
def test_a_vocabulary_is_distinct_whole_characters(vocabulary: object, words: str):
    with pytest.raises(UserError, match=words):
        CharacterTokenizer(vocabulary)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"kind": "bytes", "characters": "ab"},
        {"kind": "character"},
        {"kind": "character", "characters": ["a", "b"]},
        {"kind": "character", "characters": "ba"},  # an order that would give other ids
        {"kind": "character", "characters": ""},
    ],
)
def test_from_dict_refuses_anything_else(data: object):
    with pytest.raises(UserError):
        CharacterTokenizer.from_dict(data)


def test_fingerprints_tell_vocabularies_apart():
    assert CharacterTokenizer("ab").sha256() != CharacterTokenizer("abc").sha256()
    assert CharacterTokenizer("ab") != CharacterTokenizer("ac")
    assert CharacterTokenizer("ba") == CharacterTokenizer("ab")


def test_a_lone_surrogate_in_a_prompt_is_just_unknown():
    # What Python makes of a byte on the command line that is not UTF-8.
    with pytest.raises(UserError, match=r"U\+DC80.* at position 1"):
        CharacterTokenizer("ab").encode("a\udc80")


def test_a_text_without_a_prompt_starts_with_a_newline_if_there_is_one():
    assert CharacterTokenizer("b\na").start == "\n"
    assert CharacterTokenizer("ba").start == "a"
    assert CharacterTokenizer("\tb").start == "\t"


@pytest.mark.parametrize("text", [None, 3, b"ab", ["a"]])
def test_only_a_str_is_a_text(text: Any):
    for read in (CharacterTokenizer("ab").encode, CharacterTokenizer.from_text):
        with pytest.raises(UserError, match=f"a text must be a str, not {type(text).__name__}"):
            read(text)


def test_a_tokenizer_is_made_of_a_str_or_its_pieces():
    source = TextSource.of("hello")
    assert make_tokenizer("char", source.blocks()) == make_tokenizer("char", "hello")
    for wrong in (source, None, 3):
        with pytest.raises(UserError, match=rf"source.blocks\(\), not {type(wrong).__name__}"):
            make_tokenizer("char", wrong)  # type: ignore[arg-type]


def test_a_tokenizer_is_made_by_name():
    made = make_tokenizer("char", "hello")
    assert made == make_tokenizer("character", "hello") == CharacterTokenizer("ehlo")
    assert made == make_tokenizer("char:4", "hello")
    assert isinstance(made, Tokenizer)
    for name, words in (
        ("char:5", "has 4 different characters.* cannot have a vocabulary of 5"),
        ("char:", "at least 1 token, not ''"),
        ("char:many", "at least 1 token, not 'many'"),
        ("char:0", "at least 1 token, not '0'"),
        ("words", "no tokenizer of kind 'words'.*: choose from .*character"),
    ):
        with pytest.raises(UserError, match=words):
            make_tokenizer(name, "hello")


@given(texts, st.integers(1, 5), st.text(characters, max_size=300))
def test_blocks_give_the_ids_of_the_whole_text(text: str, size: int, more: str):
    blocks = [text[i : i + size] for i in range(0, len(text), size)]
    tokenizer = CharacterTokenizer.from_blocks(iter([*blocks, more]))
    assert tokenizer == CharacterTokenizer.from_text(text + more)
    ids = tokenizer.encode_blocks(iter(blocks), len(text))
    assert ids.tolist() == tokenizer.encode(text).tolist()
    for wrong in (len(text) - 1, len(text) + 1):
        with pytest.raises(ValueError, match=f"do not have {wrong} characters"):
            tokenizer.encode_blocks(iter(blocks), wrong)


@pytest.mark.parametrize(
    ("size", "dtype"), [(1, "uint8"), (256, "uint8"), (257, "uint16"), (70_000, "uint32")]
)
def test_the_ids_of_a_long_text_have_the_smallest_dtype(size: int, dtype: str):
    text = "".join(map(chr, range(0xE000, 0xE000 + size)))
    for encode_blocks in (CharacterTokenizer.encode_blocks, Tokenizer.encode_blocks):
        ids = encode_blocks(CharacterTokenizer(text), [text[:9], text[9:]], size)
        assert ids.dtype == dtype
        assert ids.tolist() == list(range(size))


def test_an_unknown_character_in_a_later_block_is_named_with_its_position():
    with pytest.raises(UserError, match=r"'x' .* at position 5 of the text"):
        CharacterTokenizer("ab").encode_blocks(["aba", "abxx"], 7)
