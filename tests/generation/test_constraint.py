"""Constrained decoding: every text of random models matches, whatever chooses the tokens."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import numpy as np
import pytest

from byhand import GPT, GPTConfig
from byhand.errors import UserError
from byhand.generation import constrain, generate, stream
from byhand.text import BPETokenizer, CharacterTokenizer, WordTokenizer
from tests.generation.exhaustive import random_model

TEXT = 'the café {"name": "x", 12: [true, null]} 日本 yes no maybe 3.5 -7\n' * 3
CHARACTERS = CharacterTokenizer.from_text("abcé01,")
HALVES = [b"\xe6", b"\x97", b"\xa5", b"\xe6\x97", b"\xa5x", b"x", b"y", b""]  # 日 is E6 97 A5
BPE = BPETokenizer.train(TEXT, 290, special_tokens=["<|endoftext|>"])
EOS = BPE.eos_token_id
CHOICES: list[dict[str, Any]] = [
    {},
    {"do_sample": True, "temperature": 3.0, "num_return_sequences": 5},
    {"num_beams": 3, "num_return_sequences": 2},
    {"num_beams": 2, "do_sample": True},
    {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0},
    {"penalty_alpha": 0.6, "top_k": 5},
]


def gpt(vocabulary: int, seed: int = 0) -> GPT:
    model = GPT(GPTConfig(vocabulary, 96, 16, 2, 2)).to(dtype="float64")
    rng = np.random.default_rng(seed)
    for p in model.parameters():
        p.value[...] = rng.normal(scale=0.5, size=p.shape)
    return model


def texts_of(found: np.ndarray, prompt: int, tokenizer: Any, pad: int) -> list[str]:
    return [tokenizer.decode(row[prompt:][row[prompt:] != pad]) for row in found]


@pytest.mark.parametrize("names", CHOICES, ids=str)
@pytest.mark.parametrize(
    "pattern", [r"[a-z]{2,5} (日本|é)+\.", r"\{\d{1,3}: (true|null)\}", r"\w+"]
)
def test_every_text_matches_the_expression(pattern: str, names: dict[str, Any]):
    model = gpt(len(BPE) + 3)  # a model may have more rows than the tokenizer
    prompts = [BPE.encode("the "), BPE.encode("yes no"), BPE.encode("é")]
    found = generate(
        model, prompts, max_new_tokens=24, eos_token_id=EOS, regex=pattern, tokenizer=BPE, **names
    )
    texts = texts_of(found, max(map(len, prompts)), BPE, EOS)
    for text in texts:
        assert re.fullmatch(pattern, text), text


@pytest.mark.parametrize("names", CHOICES[:4], ids=str)
def test_every_text_is_valid_under_the_schema(names: dict[str, Any]):
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 6},
            "list": {"type": "array", "items": {"type": ["integer", "null"]}, "maxItems": 3},
        },
        "required": ["name"],
    }
    model = gpt(len(BPE))
    model.tokenizer = BPE
    prompt = BPE.encode("the ")
    for own in (False, True):
        given = {"logits_processor": [constrain(model, json_schema=schema)]} if own else {}
        given = given or {"json_schema": schema}
        found = model.generate(prompt, max_new_tokens=60, eos_token_id=EOS, **given, **names)
        for text in texts_of(found, len(prompt), BPE, EOS):
            value = json.loads(text)
            assert set(value) <= {"name", "list"}
            assert len(value["name"]) <= 6
            assert all(x is None or type(x) is int for x in value.get("list", []))


@pytest.mark.parametrize("names", CHOICES, ids=str)
def test_without_an_end_token_a_text_ends_where_nothing_can_follow(names: dict[str, Any]):
    model = gpt(len(CHARACTERS))
    pad = CHARACTERS.encode(",")[0]
    found = generate(
        model, [[0], [1, 2]], max_new_tokens=9, regex="a(b|c){1,2}é?", tokenizer=CHARACTERS,
        pad_token_id=pad, **names,
    )  # fmt: skip
    for text in texts_of(found, 2, CHARACTERS, pad):
        assert re.fullmatch("a(b|c){1,2}é?", text), text


def test_no_text_is_cut():
    """Each limit has exactly the matches that fit it: against brute force over all texts."""
    model = random_model(0, size=5)
    tokens = [b"a", b"b", b"ab", b"c", b"a"]
    pattern = b"(ab)+c|ac"
    for limit in range(2, 6):
        possible = set()
        for length in range(1, limit + 1):
            for ids in itertools.product(range(5), repeat=length):
                if re.fullmatch(pattern, b"".join(tokens[id] for id in ids)):
                    possible.add(ids)
        found = generate(
            model, [3], max_new_tokens=limit, do_sample=True, num_return_sequences=400,
            temperature=5.0, use_cache=False, pad_token_id=4, seed=limit,
            logits_processor=[constrain(tokens, regex=pattern.decode())],
        )  # fmt: skip
        seen = set()
        for row in found[:, 1:].tolist():
            ids = tuple(row[: row.index(3) + 1])
            assert not any(id != 4 for id in row[len(ids) :])
            seen.add(ids)
        assert seen <= possible
        assert len(seen) == len(possible) or limit > 4


def test_tokens_of_half_a_character():
    model = random_model(1, size=8)
    constraint = constrain(HALVES, regex="日{2}[xy]?")
    found = generate(
        model, [0], max_new_tokens=9, do_sample=True, temperature=4.0, num_return_sequences=100,
        eos_token_id=7, use_cache=False, logits_processor=[constraint],
    )  # fmt: skip
    texts = {b"".join(HALVES[id] for id in row[1:]).decode() for row in found.tolist()}
    assert texts == {"日日", "日日x", "日日y"}


def test_an_end_token_that_is_text_ends_and_is_not_written():
    """A character tokenizer has no special tokens: here "," ends a text."""
    model = gpt(len(CHARACTERS))
    comma = int(CHARACTERS.encode(",")[0])
    found = generate(
        model, [0], max_new_tokens=6, regex="[a,]+b", tokenizer=CHARACTERS, eos_token_id=comma,
        do_sample=True, num_return_sequences=50, temperature=5.0,
    )  # fmt: skip
    for row in found:
        text = CHARACTERS.decode(row[1:])
        assert re.fullmatch("a+b,*", text), text
    with pytest.raises(UserError, match="no text of the tokenizer's tokens matches the regular"):
        generate(model, [0], max_new_tokens=6, regex=",", tokenizer=CHARACTERS, eos_token_id=comma)


def test_a_stream_matches_too():
    model = gpt(len(BPE))
    model.tokenizer = BPE
    text = "".join(stream(model, "yes ", max_new_tokens=20, regex="(日本 ?)+", eos_token_id=EOS))
    assert re.fullmatch("(日本 ?)+", text), text


def test_the_only_text_of_an_expression_is_empty():
    model = gpt(len(CHARACTERS))
    names = {"regex": "", "tokenizer": CHARACTERS, "max_new_tokens": 4, "pad_token_id": 0}
    for more in CHOICES[:1] + CHOICES[2:3]:
        assert (generate(model, [1, 2], **names, **more) == [1, 2]).all()


def test_a_constraint_is_compiled_once():
    assert constrain(CHARACTERS, regex="a+") is constrain(CHARACTERS, regex="a+")
    assert constrain(CHARACTERS, regex="a+") is not constrain(CHARACTERS, regex="b+")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"regex": "z+"}, "no text of the tokenizer's tokens matches the regular expression"),
        ({"json_schema": {"type": "null"}}, "no text of the tokenizer's tokens matches the JSON"),
        ({"regex": "a{9}"}, "has 9 tokens, and only 6 may be generated"),
        ({"regex": "("}, r"has a \( without its \) at position 0"),
        ({"json_schema": {"type": "nul"}}, "has the type 'nul', which does not exist"),
        ({"regex": "a", "json_schema": {}}, "regex and json_schema do not go together"),
        ({"regex": "a", "tokenizer": None}, "a constraint needs the tokenizer"),
        ({"regex": "a", "tokenizer": WordTokenizer.train("a b c")}, "depend on their place"),
        ({"regex": "a", "tokenizer": BPE}, "has 290 tokens, and the model 7"),
        ({"regex": "ab", "bad_words_ids": [[3]]}, "every token is excluded"),
    ],
    ids=str,
)
def test_bad_input_gets_one_sentence(names: dict[str, Any], message: str):
    model = gpt(len(CHARACTERS))
    names = {"tokenizer": CHARACTERS, "max_new_tokens": 6, "pad_token_id": 0, **names}
    with pytest.raises(ValueError, match=message) as caught:
        generate(model, [1], **names)
    assert "\n" not in str(caught.value)


def test_wrong_arguments_of_constrain():
    for wrong in ({}, {"regex": "a", "json_schema": {}}):
        with pytest.raises(UserError, match="a regex or a json_schema: give one of them"):
            constrain(CHARACTERS, **wrong)
    with pytest.raises(UserError, match="depth must be a whole number"):
        constrain(CHARACTERS, regex="a", depth=-1)
    with pytest.raises(UserError, match="json_schema must be a dict of JSON data"):
        constrain(CHARACTERS, json_schema={"const": {1}})
    with pytest.raises(UserError, match="a list with the bytes of each token"):
        constrain(["a"], regex="a")
