"""MultiHeadAttention's slopes, score bias, cap, packed sequences and weights; its patterns."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest

from byhand import gradcheck, nn
from byhand.nn.cache import KeyValueCache

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 7, 12))
MEMORY = RNG.standard_normal((2, 5, 12))


class Biased(nn.Module):
    """Attention whose score bias is an input like x, so that gradcheck moves it."""

    def __init__(self, **options: Any):
        self.attention = nn.MultiHeadAttention(12, 3, **options)

    def forward(self, x: Any, bias: Any, memory: Any = None) -> Any:
        return self.attention(x, memory, score_bias=bias)

    def backward(self, dy: Any) -> Any:
        dx, *dmemory, dbias = self.attention.backward(dy)
        return (dx, dbias, *dmemory)


class Packed(nn.Module):
    def __init__(self, **options: Any):
        self.attention = nn.MultiHeadAttention(12, 3, **options)

    def forward(self, x: Any) -> Any:
        return self.attention(x, sequences=np.array([[0] * 3 + [1] * 4, [2] * 7]))

    def backward(self, dy: Any) -> Any:
        return self.attention.backward(dy)


@pytest.mark.parametrize("shape", [(2, 3), (1, 3), (2, 1), (1, 1)])
def test_gradients_with_a_score_bias(shape: tuple[int, int]) -> None:
    report = gradcheck(Biased(softcap=2.0, causal=True), X, RNG.standard_normal((*shape, 7, 7)))
    assert {"input 0", "input 1"} <= set(report.errors)
    gradcheck(Biased(), X, RNG.standard_normal((*shape, 7, 5)), MEMORY)


@pytest.mark.parametrize("options", [{}, {"causal": True, "alibi": True, "softcap": 1.5}])
def test_gradients_of_packed_sequences(options: dict[str, Any]) -> None:
    gradcheck(Packed(**options), X)
    gradcheck(nn.MultiHeadAttention(12, 3, **options), X)


@pytest.mark.parametrize("heads", range(1, 40))
def test_slopes_are_those_of_transformers(heads: int) -> None:
    torch = pytest.importorskip("torch")
    bloom = pytest.importorskip("transformers.models.bloom.modeling_bloom")
    mask = torch.ones(1, 2)
    theirs = bloom.build_alibi_tensor(mask, heads, torch.float32)[:, 0, 1]
    assert np.allclose(nn.alibi_slopes(heads), theirs.numpy(), rtol=1e-6)


def test_alibi_is_the_bias_it_stands_for() -> None:
    """Also behind a cache, where the last positions are queries; and it moves with the model."""
    plain = nn.MultiHeadAttention(12, 3, causal=True).build(seed=0).to(dtype="float64").inference()
    sloped = nn.MultiHeadAttention(12, 3, causal=True, alibi=True).build(seed=0)
    sloped.to(dtype="float64").inference()
    ahead = np.arange(7) - np.arange(7)[:, None]
    bias = (nn.alibi_slopes(3)[:, None, None] * ahead)[None]
    y = sloped(X)
    assert np.allclose(y, plain(X, score_bias=bias), atol=1e-12)
    assert not np.allclose(y, plain(X), atol=1e-3)
    assert sloped.state_dict().keys() == plain.state_dict().keys()
    cache = KeyValueCache(2, 7, 3, 4, X)
    parts = [sloped(X[:, i:j].copy(), cache=cache) for i, j in ((0, 4), (4, 5), (5, 7))]
    assert np.allclose(np.concatenate(parts, 1), y, atol=1e-12)
    for other in (copy.deepcopy(sloped), pickle.loads(pickle.dumps(sloped))):
        assert np.array_equal(other(X), y)
    again = pickle.loads(pickle.dumps(nn.MultiHeadAttention(12, 3, causal=True, alibi=True)))
    assert np.array_equal(again.build(seed=0).to(dtype="float64").inference()(X), y)


def test_packed_sequences_are_sequences_apart() -> None:
    layer = Packed(causal=True, alibi=True).build(seed=0).to(dtype="float64").inference()
    y = layer(X)
    for row, part in ((0, slice(0, 3)), (0, slice(3, 7)), (1, slice(0, 7))):
        apart = layer.attention(X[row : row + 1, part].copy())
        assert np.allclose(y[row, part], apart[0], atol=1e-12)


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_weights_are_the_plain_formula(kind: str) -> None:
    layer = nn.MultiHeadAttention(12, 4, 2, causal=True, dropout=0.3, softcap=2.0, alibi=True)
    layer.build(seed=0).to(dtype=kind)
    x = X.astype(kind)
    bias = RNG.standard_normal((1, 4, 7, 7)).astype(kind)
    lengths = np.array([7, 3])
    y, weights = layer(x, lengths=lengths, score_bias=bias, return_weights=True)
    layer.discard_saved()
    layer.inference()
    assert y.shape == x.shape
    qkv = layer.qkv(x).reshape(2, 7, 8, 3).transpose(0, 2, 1, 3)
    q, k, v = qkv[:, :4], qkv[:, 4:6].repeat(2, 1), qkv[:, 6:].repeat(2, 1)
    scores = 2 * np.tanh(q @ k.swapaxes(-1, -2) / math.sqrt(3) / 2)
    ahead = np.arange(7) - np.arange(7)[:, None]
    scores += nn.alibi_slopes(4)[:, None, None] * ahead + bias
    seen = (ahead <= 0) & (np.arange(7) < lengths[:, None, None, None])
    e = np.where(seen, np.exp(scores), 0)
    expected = e / e.sum(-1, keepdims=True)
    close = 1e-5 if kind == "float32" else 1e-12
    assert weights.shape == (2, 4, 7, 7)
    assert weights.dtype == kind
    assert np.allclose(weights, expected, atol=close)
    o = (weights @ v).transpose(0, 2, 1, 3).reshape(2, 7, 12).astype(kind)
    inferred = layer(x, lengths=lengths, score_bias=bias)
    assert np.allclose(layer.project(o), inferred, atol=10 * close)


def test_weights_of_queries_that_see_nothing_are_0() -> None:
    layer = nn.MultiHeadAttention(12, 3).build(seed=0).to(dtype="float64").inference()
    _, weights = layer(X, lengths=np.array([0, 7]), return_weights=True)
    assert not weights[0].any()
    assert np.allclose(weights[1].sum(-1), 1)
    _, crossed = layer(X, MEMORY, return_weights=True)
    assert crossed.shape == (2, 3, 7, 5)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: built()(X, MEMORY, sequences=np.zeros((2, 7), np.int64)),
            "sequences are for self-attention without a cache, not for a memory",
        ),
        (
            lambda: built()(
                X, cache=KeyValueCache(2, 7, 3, 4, X), sequences=np.zeros((2, 7), np.int64)
            ),
            "sequences are for self-attention without a cache, not for a cache",
        ),
        (
            lambda: built(alibi=True)(X, MEMORY),
            "MultiHeadAttention: alibi is for self-attention, not for a memory",
        ),
        (
            lambda: nn.MultiHeadAttention(12, 3, softcap=0),
            "MultiHeadAttention: softcap must be a number greater than 0, got 0",
        ),
        (
            lambda: built()(X, score_bias=np.zeros((3, 7, 7))),
            r"bias must have shape \(2 or 1, 3 or 1, 7, 7\), got \(3, 7, 7\)",
        ),
        (lambda: nn.alibi_slopes(0), "alibi_slopes: num_heads must be at least 1, got 0"),
        (
            lambda: nn.block_sparse_mask(8, pattern="random"),
            "block_sparse_mask: pattern must be 'strided' or 'fixed', got 'random'",
        ),
        (
            lambda: nn.local_global_mask(8, 2, [8]),
            r"local_global_mask: positions must be in 0\.\.7, got 8",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()


def built(**options: Any) -> nn.MultiHeadAttention:
    return nn.MultiHeadAttention(12, 3, **options).build(seed=0).to(dtype="float64").inference()


def test_patterns_of_masks() -> None:
    strided = nn.block_sparse_mask(24, 2, 3)
    fixed = nn.block_sparse_mask(24, 2, 3, "fixed")
    for i in range(24):
        for j in range(24):
            a, b = i // 2, j // 2
            assert strided[i, j] == (abs(a - b) < 3 or (a - b) % 3 == 0)
            assert fixed[i, j] == (a // 3 == b // 3 or b % 3 == 2)
    assert nn.block_sparse_mask(130, 64).shape == (130, 130)
    mask = nn.local_global_mask(9, 2, [4])
    expected = [[abs(i - j) < 2 or 4 in (i, j) for j in range(9)] for i in range(9)]
    assert mask.tolist() == expected
