"""Greedy search beside transformers' `generate`, with a GPT-2 of the same random weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from byhand import GPT, GPTConfig
from tests.models.test_gpt_transformers import as_there, name_there

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

# vocabulary, context, width, heads, layers; prompts
SIZES = [(61, 48, 24, 3, 2), (257, 64, 32, 4, 3), (31, 40, 16, 2, 1)]
PROMPTS = 20


def twins(sizes: tuple[int, ...], seed: int = 0) -> tuple[GPT, Any]:
    """A model whose texts vary, and transformers' with the same weights."""
    vocabulary, context, width, heads, layers = sizes
    model = GPT(GPTConfig(vocabulary, context, width, heads, layers)).to(dtype="float64")
    rng = np.random.default_rng(seed)
    for p in model.parameters():
        if len(p.shape) > 1:
            p.value[...] = rng.normal(scale=0.6, size=p.shape)
    config = transformers.GPT2Config(
        vocab_size=vocabulary,
        n_positions=context,
        n_embd=width,
        n_head=heads,
        n_layer=layers,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="eager",
    )
    twin = transformers.GPT2LMHeadModel(config).double().eval()
    theirs = dict(twin.named_parameters())
    with torch.no_grad():
        for name, p in model.named_parameters():
            theirs[name_there(name)].copy_(torch.from_numpy(as_there(name, p.value)))
    return model, twin


def prompts(vocabulary: int, count: int = PROMPTS, longest: int = 12) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(2, vocabulary, size=1 + n % longest) for n in range(count)]


def left_padded(rows: list[np.ndarray], pad: int) -> tuple[Any, Any]:
    """ids and attention mask (B, T) as transformers takes them."""
    width = max(map(len, rows))
    ids = np.full((len(rows), width), pad)
    for line, row in zip(ids, rows, strict=True):
        line[width - len(row) :] = row
    mask = np.arange(width) >= width - np.array([len(row) for row in rows])[:, None]
    return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))


def theirs(twin: Any, rows: list[np.ndarray], **names: Any) -> np.ndarray:
    pad = names.pop("pad_token_id", 0)
    ids, mask = left_padded(rows, pad)
    with torch.no_grad():
        out = twin.generate(ids, attention_mask=mask, pad_token_id=pad, **names)
    return out.numpy()


OPTIONS: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 1.3},
    {"no_repeat_ngram_size": 2},
    {"eos_token_id": [9, 11, 13]},
    {"eos_token_id": [9, 11, 13], "min_new_tokens": 9},
    {"bad_words_ids": [[5], [9, 4], [20]]},
    {"repetition_penalty": 0.8, "no_repeat_ngram_size": 3, "eos_token_id": 9, "min_new_tokens": 3},
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_greedy_texts_are_those_of_transformers(sizes: tuple[int, ...], options: dict[str, Any]):
    """60 prompts of 1 to 12 tokens, in batches with padding, token for token."""
    model, twin = twins(sizes)
    rows = prompts(sizes[0])
    options = {"max_new_tokens": 24, "pad_token_id": 0, **options}
    expected = theirs(twin, rows, do_sample=False, **options)
    found = model.generate(rows, **options)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, expected)
    assert len(set(found[:, 12:].ravel())) > 8, "texts of a few tokens would test nothing"


def test_padding_on_the_left_and_lengths_mean_the_same_prompts():
    model, twin = twins(SIZES[0])
    rows = prompts(SIZES[0][0])
    options = {"max_new_tokens": 10, "pad_token_id": 0}
    expected = theirs(twin, rows, do_sample=False, **options)
    ids, _ = left_padded(rows, 0)
    np.testing.assert_array_equal(model.generate(ids.numpy(), **options), expected)
    lengths = np.array([len(row) for row in rows])
    right = np.full(ids.shape, 1)
    for line, row in zip(right, rows, strict=True):
        line[: len(row)] = row
    np.testing.assert_array_equal(model.generate(right, lengths=lengths, **options), expected)


def test_max_length_counts_the_prompt_as_there():
    model, twin = twins(SIZES[0])
    row = prompts(SIZES[0][0])[:1]
    for names in ({"max_length": 17}, {}, {"max_new_tokens": 4, "max_length": 30}):
        expected = theirs(twin, row, do_sample=False, **names)
        np.testing.assert_array_equal(model.generate(row[0], **names), expected)
