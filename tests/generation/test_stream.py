"""Streams of text in whole characters, and stop strings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from byhand import GPT, GPTConfig
from byhand.errors import UserError
from byhand.generation import generate, stream, stream_ids
from byhand.generation.stopping import Stops
from byhand.text import BPETokenizer, CharacterTokenizer, WordTokenizer
from tests.generation.test_generate import lively_model

TEXT = "Grüße, 東京! Déjà vu: naïve façade, 你好 🙂 and plain words too. " * 3


def model_for(tokenizer: Any, seed: int = 0) -> GPT:
    model = GPT(GPTConfig(len(tokenizer), 32, 16, 2, 2), seed=seed).to(dtype="float64")
    rng = np.random.default_rng(seed)
    for p in model.parameters():
        if len(p.shape) > 1:
            p.value[...] = rng.normal(scale=0.5, size=p.shape)
    model.tokenizer = tokenizer
    return model


TOKENIZERS = {
    "bytes": BPETokenizer.train(TEXT, 256),
    "bpe": BPETokenizer.train(TEXT, 290),
    "characters": CharacterTokenizer.from_text(TEXT),
    "words": WordTokenizer.train(TEXT, 40),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_stream_is_the_text_of_generate_in_whole_characters(kind: str):
    tokenizer = TOKENIZERS[kind]
    model = model_for(tokenizer)
    prompt = "Déjà vu"
    ids = tokenizer.encode_blocks([prompt], len(prompt)).astype(np.int64)
    for seed in range(3):
        names = {"max_new_tokens": 60, "do_sample": True, "overflow": "window", "seed": seed}
        parts = list(stream(model, prompt, **names))
        whole = generate(model, ids, **names)[0]
        assert list(stream(model, ids, **names)) == parts
        assert "".join(parts) == tokenizer.decode(whole)[len(tokenizer.decode(ids)) :]
        assert len(parts) > 5


def test_a_character_of_several_tokens_is_never_given_in_halves():
    """With a token for each byte, and a processor that writes a text byte by byte."""
    tokenizer = TOKENIZERS["bytes"]
    model = model_for(tokenizer)
    text = "é東🙂a"
    wanted = tokenizer.encode(text)
    assert len(wanted) > len(text)

    def write(ids: Any, scores: Any) -> Any:
        forced = np.full(scores.shape, -np.inf)
        forced[0, wanted[len(ids[0]) - 1]] = 0
        return forced

    prompt = tokenizer.encode("x")
    names = {"max_new_tokens": len(wanted), "logits_processor": [write]}
    assert list(stream(model, prompt, **names)) == ["é", "東", "🙂", "a"]
    cut = {**names, "max_new_tokens": len(wanted) - 2}
    *whole, rest = stream(model, prompt, **cut)
    assert whole == ["é", "東"]
    assert set(rest) == {"\ufffd"}, "what the text ends with is written as far as it is known"


@pytest.mark.parametrize("kind", ["bpe", "characters"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_a_stop_string_ends_a_text_where_it_first_occurs(kind: str, use_cache: bool):
    tokenizer = TOKENIZERS[kind]
    model = model_for(tokenizer)
    names: dict[str, Any] = {"max_new_tokens": 40, "do_sample": True, "overflow": "window"}
    prompts = [tokenizer.encode(text) for text in ("Déjà", "plain", "words")]
    free = generate(model, prompts, pad_token_id=0, **names)
    width = max(map(len, prompts))
    texts = [tokenizer.decode(row[width:]) for row in free]
    for stop in (texts[0][9:11], texts[1][20:23], "not there"):
        found = generate(
            model, prompts, pad_token_id=0, stop_strings=stop, use_cache=use_cache, **names
        )
        for row, ended in zip(free, found, strict=True):
            length = width
            while length < len(row) and stop not in tokenizer.decode(row[width:length]):
                length += 1
            assert ended[:length].tolist() == row[:length].tolist()
            assert (ended[length:] == 0).all()
        assert found.shape[1] <= free.shape[1]
    several = generate(model, prompts[0], stop_strings=["not there", texts[0][9:11]], **names)
    assert texts[0][9:11] in tokenizer.decode(several[0, len(prompts[0]) :])


def test_a_stop_string_in_the_prompt_does_not_end_it():
    tokenizer = TOKENIZERS["characters"]
    model = model_for(tokenizer)
    found = generate(model, tokenizer.encode("words"), max_new_tokens=3, stop_strings="ord")
    assert found.shape == (1, 8)


def test_only_the_end_of_a_long_text_is_decoded():
    class Counting:
        longest = 0

        def decode(self, ids: Any) -> str:
            self.longest = max(self.longest, len(ids))
            return "".join("" if i == 0 else chr(96 + i) for i in ids)

    tokenizer = Counting()
    stops = Stops(["cc"], tokenizer)
    text = np.tile([1, 2, 3], 300)
    limits = np.array([1000, 1000])
    assert not stops([text, text[:-1]], limits).any()
    assert stops([text, np.append(text, 3)], limits).tolist() == [False, True]
    assert tokenizer.longest < 30
    hidden = np.concatenate([[3], np.zeros(90, np.int64), [3]])
    assert stops([hidden], limits[:1]).tolist() == [True], (
        "tokens without text are no end of the search"
    )


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("", "has no tokens"),
        ("a Ж b", "Ж"),
        ([], "at least one token id"),
    ],
)
def test_prompts_that_are_refused(prompt: Any, words: str):
    tokenizer = TOKENIZERS["characters"]
    with pytest.raises(UserError, match=words):
        stream(model_for(tokenizer), prompt, max_new_tokens=3)


def test_a_text_needs_a_tokenizer():
    model = lively_model(8, "float64")
    with pytest.raises(UserError, match="a text is streamed with the model's tokenizer"):
        stream(model, "a", max_new_tokens=3)
    tokenizer = CharacterTokenizer.from_text("abcdefghijklmnopqrstuvw")
    found = "".join(stream(model, "abc", max_new_tokens=3, tokenizer=tokenizer))
    ids = stream_ids(model, tokenizer.encode("abc"), max_new_tokens=3)
    assert found == tokenizer.decode(list(ids))
