"""Generation: the same ids with and without the cache, within the context and beyond it."""

import numpy as np
import pytest

from byhand import GPT, GPTConfig
from byhand.errors import UserError
from byhand.generation import generate, probabilities, sample, stream


def lively_model(context: int, dtype: str, seed: int = 0, dropout: float = 0.0) -> GPT:
    """A model whose next token depends strongly on all tokens before it."""
    config = GPTConfig(
        vocabulary_size=23,
        context_size=context,
        embedding_dim=12,
        num_heads=3,
        num_layers=2,
        dropout=dropout,
    )
    model = GPT(config, seed=seed).to(dtype=dtype)
    rng = np.random.default_rng(seed)
    for parameter in model.parameters():
        parameter.value[...] = rng.normal(scale=0.7, size=parameter.shape)
    return model


def without_cache(
    model: GPT, prompt: list[int], tokens: int, temperature: float, top_k: int | None
) -> list[int]:
    """The rule without a cache: when the window is full, its older half is dropped."""
    context = model.config.context_size
    rng = np.random.default_rng(7)
    window, written = prompt[-context:], []
    for _ in range(tokens):
        if len(window) > context:
            del window[: len(window) - (context - context // 2)]
        with model.in_inference():
            logits = model(np.array([window]))[0, -1]
        token = sample(probabilities(logits, temperature, top_k), rng)
        window.append(token)
        written.append(token)
    return written


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("context", [1, 2, 7, 16])
@pytest.mark.parametrize(("temperature", "top_k"), [(0.0, None), (1.0, None), (0.8, 5)])
def test_cached_equals_uncached_equals_the_plain_rule(
    dtype: str, context: int, temperature: float, top_k: int | None
):
    model = lively_model(context, dtype)
    rng = np.random.default_rng(3)
    for length in (1, 3, context, context + 1, 3 * context):
        prompt = rng.integers(23, size=length).tolist()
        expected = without_cache(model, prompt, 60, temperature, top_k)
        for cache in (True, False):
            ids = generate(
                model, prompt, 60, temperature, top_k, np.random.default_rng(7), cache=cache
            )
            assert ids.dtype == np.int64
            assert ids.tolist() == expected
    if context > 2 and temperature == 1.0:
        assert len(set(expected)) > 8, "a model that repeats one token tests nothing"


def test_two_hundred_tokens_for_twenty_prompts():
    model = lively_model(32, "float32", seed=1)
    rng = np.random.default_rng(4)
    for seed in range(20):
        prompt = rng.integers(23, size=1 + seed)
        cached, plain = (
            generate(model, prompt, 200, 0.9, 12, np.random.default_rng(seed), cache=cache)
            for cache in (True, False)
        )
        assert cached.tolist() == plain.tolist()


def test_the_seed_decides_and_the_default_is_fixed():
    model = lively_model(8, "float64")
    first, again = generate(model, [1], 30), generate(model, [1], 30)
    assert first.tolist() == again.tolist()
    other = generate(model, [1], 30, rng=np.random.default_rng(1))
    assert first.tolist() != other.tolist()


def test_stream_yields_each_token_before_computing_the_next():
    model = lively_model(8, "float64")
    calls = []
    forward = model.forward
    model.forward = lambda *args, **kwargs: calls.append(1) or forward(*args, **kwargs)  # type: ignore[method-assign]
    tokens = stream(model, [1, 2], 5)
    assert len(calls) == 0
    for n in range(1, 6):
        next(tokens)
        assert len(calls) == n
    with pytest.raises(StopIteration):
        next(tokens)


def test_with_the_cache_each_token_costs_one_position():
    model = lively_model(8, "float64")
    widths = []
    forward = model.forward

    def watched(ids: np.ndarray, cache: object = None) -> np.ndarray:
        widths.append(ids.shape[1])
        return forward(ids, cache)

    model.forward = watched  # type: ignore[method-assign]
    generate(model, [1, 2, 3], 16)
    # A prompt of 3; 5 more fill the window of 8; then 4 are read again, and so every 5 tokens.
    assert widths == [3, 1, 1, 1, 1, 1, 4, 1, 1, 1, 1, 4, 1, 1, 1, 1]


def test_dropout_is_off_while_generating_and_the_mode_is_restored():
    model = lively_model(8, "float64", dropout=0.5)
    before = model.generator.state_dict()
    assert generate(model, [1], 20).tolist() == generate(model, [1], 20).tolist()
    assert model.training
    assert model.generator.state_dict() == before
    next(stream(model, [1], 20))
    assert model.training, "a stream that is left early restores the mode too"
    model.eval()
    generate(model, [1], 2)
    assert not model.training


def test_zero_tokens_are_an_empty_result():
    assert generate(lively_model(8, "float64"), [1], 0).shape == (0,)


@pytest.mark.parametrize(
    ("prompt", "tokens", "words"),
    [
        ([], 3, "at least one token id"),
        ([0, 23], 3, r"token id 23 at position 1 of the prompt is outside the vocabulary 0..22"),
        ([-1], 3, "token id -1 at position 0"),
        ([[0, 1]], 3, r"shape \(1, 2\)"),
        ([0.5], 3, "float64"),
        ([1], -1, "max_new_tokens must be at least 0, not -1"),
    ],
)
def test_bad_prompts_are_refused_at_once(prompt: list, tokens: int, words: str):
    with pytest.raises(UserError, match=words):
        stream(lively_model(8, "float64"), prompt, tokens)
