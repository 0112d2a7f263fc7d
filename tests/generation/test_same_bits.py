"""A row's logits have the same bits with a cache and without, alone and in a batch of rows of other
lengths, and for any number of threads; so its text is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from byhand import GPT, Bloom, BloomConfig, GPTConfig, Llama, LlamaConfig, backend
from byhand.generation import GenerationConfig, generate
from byhand.generation.session import Session

VOCABULARY, CONTEXT, LENGTH = 61, 160, 150
GPT_SIZES = {
    "vocabulary_size": VOCABULARY,
    "context_size": CONTEXT,
    "embedding_dim": 48,
    "num_heads": 6,
    "num_layers": 2,
}
LLAMA_SIZES = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": CONTEXT,
    "hidden_size": 48,
    "intermediate_size": 100,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}
BLOOM_SIZES = {"vocab_size": VOCABULARY, "seq_length": CONTEXT, "hidden_size": 48}
MODELS: dict[str, Callable[[], Any]] = {
    "gpt": lambda: GPT(GPTConfig(**GPT_SIZES)),
    "gpt rotary": lambda: GPT(GPTConfig(**GPT_SIZES, positions="rotary")),
    "llama": lambda: Llama(LlamaConfig(**LLAMA_SIZES)),
    "llama window": lambda: Llama(LlamaConfig(**LLAMA_SIZES, sliding_window=70)),
    "llama experts": lambda: Llama(LlamaConfig(**LLAMA_SIZES, num_local_experts=4)),
    "bloom": lambda: Bloom(BloomConfig(**BLOOM_SIZES, n_head=6, n_layer=2)),
}
FORMATS = (None, "bf16", "int8", "int4")


def lively(name: str, format: Any = None) -> Any:
    """A model whose logits depend strongly on all tokens before."""
    model = MODELS[name]()
    rng = np.random.default_rng(3)
    for p in model.parameters():
        noise = rng.normal(scale=0.7, size=p.shape).astype(np.float32)
        p.value = noise if noise.ndim > 1 else p.value + 0.1 * noise
    return model.quantize(format)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = backend.get_num_threads()
    backend.set_num_threads(count)
    try:
        yield
    finally:
        backend.set_num_threads(before)


@pytest.fixture(params=backend.cpu_modules())
def module(request):
    with backend.use_cpu(request.param):
        yield


def in_parts(model: Any, ids: np.ndarray, sizes: list[int]) -> np.ndarray:
    """The logits (B, T, V) with a cache that is filled in parts of these sizes."""
    cache, ends = model.new_cache(len(ids)), np.cumsum(sizes)
    parts = [model(ids[:, e - n : e], cache=cache) for n, e in zip(sizes, ends, strict=True)]
    return np.concatenate(parts, axis=1)


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", MODELS)
def test_logits(name: str, format: str | None):
    model = lively(name, format)
    ids = np.random.default_rng(5).integers(VOCABULARY, size=(8, LENGTH))
    with model.in_decoding():
        whole = model(ids)
        assert len(np.unique(whole.argmax(-1))) > 15, "a model that repeats itself tests nothing"
        for count in (1, 2, 7):
            with threads(count):
                np.testing.assert_array_equal(model(ids), whole)
                np.testing.assert_array_equal(model(ids[:3]), whole[:3])
                np.testing.assert_array_equal(model(ids[5:6]), whole[5:6])
                np.testing.assert_array_equal(model(ids[:, :90]), whole[:, :90])
        for batch in (1, 8):
            cached = in_parts(model, ids[:batch], [70, *[1] * 20, 5, 1, 1, 30, *[1] * 23])
            np.testing.assert_array_equal(cached, whole[:batch])


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize("name", MODELS)
def test_rows_of_different_lengths(name: str):
    model = lively(name)
    rng = np.random.default_rng(6)
    texts = [rng.integers(VOCABULARY, size=n) for n in (90, 1, 64, 17, 65, 30, 31, 88)]
    expected = []
    with model.in_decoding():
        for text in texts:
            expected.append(model(text[None])[0, -1])
    config = GenerationConfig(max_new_tokens=30)
    begun = [text[: max(1, len(text) - int(rng.integers(30)))] for text in texts]
    session = Session(model, begun, config)
    for step in range(30):
        logits = session.logits
        for row, text in enumerate(texts):
            if int(session.lengths[row]) == len(text):
                np.testing.assert_array_equal(logits[row], expected[row])
        at = [min(len(begun[r]) + step, len(text) - 1) for r, text in enumerate(texts)]
        session.extend([text[i] for i, text in zip(at, texts, strict=True)])


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "temperature": 0.9, "top_p": 0.9}])
@pytest.mark.parametrize("name", MODELS)
def test_texts(name: str, options: dict[str, Any]):
    model = lively(name)
    rng = np.random.default_rng(7)
    prompts = [rng.integers(VOCABULARY, size=n) for n in (40, 3, 64, 11, 1)]
    options = {"max_new_tokens": 60, "pad_token_id": 0, "repetition_penalty": 1.3, **options}
    alone = [generate(model, p, **options)[0, len(p) :].tolist() for p in prompts]
    assert len({token for text in alone for token in text}) > 8
    for cache in (True, False):
        for count in (1, 3):
            with threads(count):
                batch = generate(model, prompts, use_cache=cache, **options)
            assert batch[:, 64:].tolist() == alone


def test_trained_between_two_tokens():
    """The packed weights are those of the model at each step."""
    model = lively("gpt")
    session = Session(model, [1, 2, 3], GenerationConfig(max_new_tokens=5, use_cache=False))
    before = session.logits.copy()
    model.head.weight.value = 2 * model.head.weight.value
    session.extend([4])
    with model.in_decoding():
        expected = model(np.array([[1, 2, 3, 4]]))[0, -1]
    np.testing.assert_array_equal(session.logits[0], expected)
    assert not np.array_equal(before, session.logits)
