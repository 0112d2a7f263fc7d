"""Guessed tokens and prompts that were read before: the same texts, with less reading."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from byhand.errors import UserError
from byhand.generation import GenerationConfig, PromptCache, Session, generate
from byhand.generation.lookup import guess
from tests.generation.test_same_bits import MODELS, VOCABULARY, lively

TEXT = np.tile(np.random.default_rng(1).integers(VOCABULARY, size=9), 5)


def plain_guess(ids: list[int], count: int, longest: int) -> list[int]:
    for size in range(min(longest, len(ids) - 1), 0, -1):
        for start in range(len(ids) - size - 1, -1, -1):
            if ids[start : start + size] == ids[-size:]:
                return ids[start + size : start + size + count]
    return []


def test_a_guess_is_what_followed_the_longest_latest_occurrence():
    rng = np.random.default_rng(0)
    for _ in range(300):
        ids = rng.integers(4, size=rng.integers(1, 30))
        count, longest = int(rng.integers(6)), int(rng.integers(1, 5))
        assert guess(ids, count, longest).tolist() == plain_guess(ids.tolist(), count, longest)


class Counted:
    """Counts the forward passes of a model's decoder."""

    def __init__(self, model: Any, monkeypatch: pytest.MonkeyPatch):
        self.passes = self.tokens = 0
        forward = type(model.decoder).forward

        def counted(decoder: Any, ids: Any, **options: Any) -> Any:
            self.passes += 1
            self.tokens += ids.size
            return forward(decoder, ids, **options)

        monkeypatch.setattr(type(model.decoder), "forward", counted)


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "top_k": 2, "temperature": 0.5}])
@pytest.mark.parametrize("name", MODELS)
def test_guesses_do_not_change_a_text(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    model = lively(name)
    options = {"max_new_tokens": 80, "repetition_penalty": 0.8, **options}
    plain = generate(model, TEXT, **options)
    counted = Counted(model, monkeypatch)
    for count, longest in ((1, 1), (4, 2), (30, 3)):
        counted.passes = 0
        found = generate(
            model,
            TEXT,
            prompt_lookup_num_tokens=count,
            max_matching_ngram_size=longest,
            **options,
        )
        assert found.tolist() == plain.tolist()
        assert counted.passes < 80


def test_guesses_end_with_the_context_and_the_text():
    model = lively("gpt")
    text = np.tile(TEXT, 3)
    for options in (
        {"max_new_tokens": 25},
        {"max_new_tokens": 60, "overflow": "window"},
        {"max_new_tokens": 60, "overflow": "truncate"},
        {"max_new_tokens": 1},
        {"max_new_tokens": 60, "overflow": "window", "eos_token_id": 7},
    ):
        expected = generate(model, text, **options)
        found = generate(model, text, prompt_lookup_num_tokens=12, **options)
        assert found.tolist() == expected.tolist()


def test_rows_may_be_selected_behind_a_guess():
    model, config = lively("llama"), GenerationConfig(max_new_tokens=9)
    guessing = Session(model, TEXT, config.replace(prompt_lookup_num_tokens=6))
    plain = Session(model, TEXT, config)
    for session in (guessing, plain):
        _ = session.logits
        session.extend([int(TEXT[0])])  # as the text goes on, so that a guess waits
        _ = session.logits
        session.select([0, 0])
        session.extend([3, int(TEXT[1])])
    np.testing.assert_array_equal(guessing.logits, plain.logits)


@pytest.mark.parametrize("name", MODELS)
def test_a_prefix_is_read_once(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path):
    model = lively(name)
    rng = np.random.default_rng(3)
    prefix = rng.integers(VOCABULARY, size=50)
    prompts = [np.append(prefix, rng.integers(VOCABULARY, size=n)) for n in (1, 20, 7)]
    options = {"max_new_tokens": 20, "pad_token_id": 0}
    expected = generate(model, prompts, **options).tolist()
    made = PromptCache.of(model, prefix)
    made.save(tmp_path / "prefix.safetensors")
    loaded = PromptCache.load(tmp_path / "prefix.safetensors", model)
    counted = Counted(model, monkeypatch)
    for cache in (made, loaded):
        counted.tokens = 0
        assert generate(model, prompts, prompt_cache=cache, **options).tolist() == expected
        assert counted.tokens <= 3 * 20 + 3 * 20
    # Prompts that share a part of it, all of it, or nothing.
    for prompt in (prompts[0][:30], prefix, prompts[1][1:]):
        plain = generate(model, prompt, **options).tolist()
        assert generate(model, prompt, prompt_cache=made, **options).tolist() == plain


def test_a_prefix_of_another_model_is_refused(tmp_path):
    model = lively("gpt")
    made = PromptCache.of(model, [1, 2, 3])
    made.save(tmp_path / "prefix.safetensors")
    with pytest.raises(UserError, match="made by another model"):
        generate(lively("gpt rotary"), [1, 2, 3, 4], prompt_cache=made, max_new_tokens=2)
    with pytest.raises(UserError, match="made by another model"):
        PromptCache.load(tmp_path / "prefix.safetensors", lively("gpt", "int8"))
    model.head.weight.value = 2 * model.head.weight.value
    with pytest.raises(UserError, match="made by another model"):
        generate(model, [1, 2, 3, 4], prompt_cache=made, max_new_tokens=2)
    data = bytearray((tmp_path / "prefix.safetensors").read_bytes())
    data[-5] ^= 1
    (tmp_path / "damaged").write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        PromptCache.load(tmp_path / "damaged", lively("gpt"))
    with pytest.raises(UserError, match="cannot read"):
        PromptCache.load(tmp_path / "missing", lively("gpt"))
