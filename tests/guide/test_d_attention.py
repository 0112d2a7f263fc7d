"""Rows D06 to D12: softmax, attention and its variants, masks and dropout."""

from __future__ import annotations

import math

import numpy as np
import pytest

from byhand import backend, gradcheck, nn, plot
from byhand.demos.attention import PRINTED, Attention
from byhand.demos.heads import Heads
from byhand.demos.softmax import Softmax
from byhand.demos.variants import Variants, dense, dense_linear
from byhand.ops import attention, dropout, linear_attention, log_softmax, softmax
from tests.guide.planted import planted

TYPES = (np.float32, np.float64)


@planted(
    "D06", "the gradient lacks the sum over the row", softmax, "backward",
    lambda right: lambda dy, saved: saved[0] * dy,
)  # fmt: skip
def test_d06_softmax_its_jacobian_and_large_inputs():
    for dtype, close in ((np.float32, 1e-6), (np.float64, 1e-12)):
        z = np.random.default_rng(0).standard_normal(7).astype(dtype)
        p, saved = softmax.forward(z)
        assert p.sum() == pytest.approx(1, abs=close)
        assert np.array_equal(np.argsort(p), np.argsort(z))
        jacobian = np.array([softmax.backward(row, saved) for row in np.eye(7, dtype=dtype)])
        assert np.allclose(jacobian, np.diag(p) - np.outer(p, p), atol=close)
        for c in (-30, 30):
            assert np.allclose(softmax.forward(z + dtype(c))[0], p, rtol=20 * close)
        assert not np.allclose(softmax.forward(3 * z)[0], p, atol=0.01)
        large = np.array([1e4, 0, -1e4], dtype)
        # Below the smallest number a probability is 0, and its logarithm is still finite.
        assert softmax.forward(large)[0].tolist() == [1, 0, 0]
        assert log_softmax.forward(large)[0].tolist() == [0, -1e4, -2e4]
        assert np.allclose(log_softmax.forward(z)[0], np.log(p), atol=10 * close)
    h, z = 1e-5, np.array([2.0, 1.0, 0.1])
    moved = [softmax.forward(z + s)[0] - softmax.forward(z - s)[0] for s in h * np.eye(3)]
    assert np.allclose(Softmax().jacobian, np.array(moved).T / (2 * h), atol=1e-9)


@planted(
    "D07", "scores are divided by d, not by its root", attention, "forward",
    lambda right: lambda q, *rest, **options: right(q, *rest, **options, scale=1 / q.shape[-1]),
)  # fmt: skip
def test_d07_attention_of_two_tokens_and_the_guides_table():
    """softmax(Q K^T / sqrt(d)) V by hand, and the numbers of figure 21."""
    q, k = np.eye(2), np.eye(2)
    v = np.array([[1.0, 2.0], [3.0, 4.0]])
    w = math.exp(1 / math.sqrt(2)) / (math.exp(1 / math.sqrt(2)) + 1)
    wanted = [[w + 3 * (1 - w), 2 * w + 4 * (1 - w)], [1 - w + 3 * w, 2 * (1 - w) + 4 * w]]
    for dtype in TYPES:
        q4, k4, v4 = (a.astype(dtype)[None, :, None] for a in (q, k, v))
        o = attention.forward(q4, k4, v4)[0][0, :, 0]
        assert np.allclose(o, wanted, atol=1e-6)
        # Scores of the opposite sign exchange the two weights.
        assert np.allclose(attention.forward(-q4, k4, v4)[0][0, ::-1, 0], wanted, atol=1e-6)
    rows, columns = PRINTED.sum(1), PRINTED.sum(0)
    assert (rows.min().round(3), rows.max().round(3)) == (0.993, 0.998)
    assert (columns.min().round(3), columns.max().round(3)) == (0.888, 1.06)
    table = Attention().table
    assert np.allclose(table.sum(1), 1)
    assert np.allclose(table, PRINTED / rows[:, None])
    assert abs(table - PRINTED).max() < 0.006


@planted(
    "D08", "the result has the heads in the opposite order", attention, "forward",
    lambda right: lambda q, *rest, **options: (
        lambda o, saved: (np.ascontiguousarray(o[:, :, ::-1]), saved)
    )(*right(q, *rest, **options)),
)  # fmt: skip
def test_d08_heads_are_single_heads_side_by_side():
    found = Heads()
    assert np.array_equal(found.together, found.apart)
    assert np.ptp(found.together) > 0.1
    with pytest.raises(ValueError, match="dim must be a multiple of num_heads, got 12 and 5"):
        nn.MultiHeadAttention(12, 5)


@planted(
    "D09", "a query sees one later key", attention, "forward",
    lambda right: lambda q, k, v, mask=None, scale=None, causal=False, *rest, **options: right(
        q, k, v, np.tri(q.shape[1], k.shape[1], 1, dtype=bool) if causal else mask, scale, False,
        *rest, **options,
    ),
)  # fmt: skip
def test_d09_self_cross_and_masked_attention():
    rng = np.random.default_rng(0)
    x, memory = rng.standard_normal((2, 5, 6)), rng.standard_normal((2, 3, 6))
    for causal in (False, True):
        layer = nn.MultiHeadAttention(6, 2, causal=causal)
        gradcheck(layer, x)
        for dtype in TYPES:
            built = nn.MultiHeadAttention(6, 2, causal=causal).build(seed=1)
            built.to(dtype=np.dtype(dtype).name).inference()
            here = x.astype(dtype)
            before = built(here)
            here[:, 3] += 1
            same = (built(here) == before).all(axis=(0, 2))
            assert same.tolist() == [causal, causal, causal, False, False]
    cross = nn.MultiHeadAttention(6, 2)
    report = gradcheck(cross, x, memory)
    assert {"input 0", "input 1"} <= set(report.errors)
    y = cross.build(seed=0).inference()(x.astype(np.float32), memory.astype(np.float32))
    assert y.shape == (2, 5, 6)


@planted(
    "D10", "a position sees the sequence before its own too", attention, "forward",
    lambda right: lambda *rest, sequences=None, **options: right(*rest, **options),
)  # fmt: skip
@planted(
    "D10", "the slopes are those of the heads in the opposite order", attention, "forward",
    lambda right: lambda *rest, slopes=None, **options: right(
        *rest, **options, slopes=None if slopes is None else slopes[::-1].copy()
    ),
)  # fmt: skip
@planted(
    "D10", "later keys are seen in linear attention", linear_attention, "forward",
    lambda right: lambda *rest, causal=False, **options: right(*rest, **options),
)  # fmt: skip
def test_d10_variants_of_attention_equal_the_dense_formula():
    """Slopes, bias, cap, window, block-sparse, local-global, packed and linear attention."""
    n = 150  # more than a tile, and no multiple of one
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 2, n, 4, 8))
    bias, at = rng.standard_normal((1, 4, n, n)), np.arange(n)
    slopes = nn.alibi_slopes(4)
    ids = np.sort(rng.integers(0, 4, (2, n)), axis=1)
    distance = at - at[:, None]
    blocks, global_too = nn.block_sparse_mask(n, 16, 3), nn.local_global_mask(n, 9, [0, 77])
    assert 0.2 < blocks.mean() < 0.8
    assert global_too.mean() < 0.2
    variants = (
        ({}, None, None),
        ({"slopes": slopes}, slopes[:, None, None] * distance, None),
        ({"bias": bias}, bias, None),
        ({"window": 9}, None, abs(distance) < 9),
        ({"mask": blocks}, None, blocks),
        ({"mask": global_too}, None, global_too),
        ({"sequences": ids}, None, ids[:, None, :, None] == ids[:, None, None]),
        ({"causal": True, "slopes": slopes}, slopes[:, None, None] * distance, distance <= 0),
    )
    for dtype in TYPES:
        close = 1e-5 if dtype == np.float32 else 1e-12
        cast = [a.astype(dtype) for a in (q, k, v)]
        for options, added, seen in variants:
            here = {
                name: a.astype(dtype) if name in ("slopes", "bias") else a
                for name, a in options.items()
            }
            o, saved = attention.forward(*cast, **here)
            assert np.allclose(o, dense(q, k, v, added, seen), atol=close)
            # What is kept for the backward pass has no n x n matrix of its own.
            assert all(a.size < n * n or a is here.get("bias") for a in saved[:5])
        for causal in (False, True):
            o, _ = linear_attention.forward(*cast, causal=causal)
            assert np.allclose(o, dense_linear(q, k, v, causal), atol=close)
    capped, _ = attention.forward(q, k, v, softcap=0.5)
    scores = 0.5 * np.tanh(np.einsum("bthd,bshd->bhts", q, k) / math.sqrt(8) / 0.5)
    assert np.allclose(capped, dense(q, 0 * k, v, scores), atol=1e-12)
    found = Variants()
    assert max(found.differences.values()) < 1e-5


@planted(
    "D10", "the weights are those of the scores without causality", attention, "weights",
    lambda right: lambda saved: right((*saved[:11], False, *saved[12:])),
)  # fmt: skip
def test_d10_attention_weights_can_be_read_and_drawn(tmp_path):
    layer = nn.MultiHeadAttention(12, 3, causal=True).build(seed=0).inference()
    x = np.random.default_rng(0).standard_normal((1, 6, 12)).astype(np.float32)
    y, weights = layer(x, return_weights=True)
    assert np.array_equal(y, layer(x))
    assert np.allclose(weights.sum(-1), 1, atol=1e-6)
    assert not weights[..., ~np.tri(6, dtype=bool)].any()
    pytest.importorskip("matplotlib")
    plot.attention(weights[0], list("byhand"), path=tmp_path / "weights.png")
    assert (tmp_path / "weights.png").stat().st_size > 1000


@planted(
    "D11", "the mask begins one key too late", softmax, "forward",
    lambda right: lambda x, mask=None, scale=1.0, causal=False: right(
        x, np.tri(*x.shape[-2:], 1, dtype=bool) if causal else mask, scale
    ),
)  # fmt: skip
def test_d11_masked_probabilities_are_exactly_0():
    for dtype in TYPES:
        scores = np.random.default_rng(0).standard_normal((4, 4)).astype(dtype)
        p, _ = softmax.forward(scores, causal=True)
        assert p[0].tolist() == [1, 0, 0, 0]
        assert not p[~np.tri(4, dtype=bool)].any()
        assert (p[np.tri(4, dtype=bool)] > 0).all()
        assert np.allclose(p.sum(1), 1)
        infinite = np.where(np.tri(4, dtype=bool), scores, dtype(-np.inf))
        assert np.array_equal(softmax.forward(infinite)[0], p)
        # A row that may see no key is 0, in softmax and in attention, and so are its gradients.
        none = np.arange(4)[:, None] != 1
        p, saved = softmax.forward(scores, none)
        dp = softmax.backward(scores, saved)
        assert not p[1].any()
        assert not dp[1].any()
        q, k, v = np.random.default_rng(1).standard_normal((3, 1, 4, 2, 3)).astype(dtype)
        o, saved = attention.forward(q, k, v, none)
        dq, dk, dv = attention.backward(np.ones_like(o), saved)
        assert not o[:, 1].any()
        assert not dq[:, 1].any()
        assert all(np.isfinite(a).all() for a in (o, dq, dk, dv))


@planted(
    "D12", "what is kept is not scaled by 1 / (1 - p)", dropout, "forward",
    lambda right: lambda x, p, *rest: right(x * np.float32(1 - p), p, *rest),
)  # fmt: skip
def test_d12_dropout_keeps_the_mean_and_is_off_in_inference():
    layer = nn.Dropout(0.2).build(seed=0)
    x = np.ones(1_000_000, np.float32)
    one, two = layer(x), layer(x)
    layer.discard_saved()
    for y in (one, two):
        assert y.mean() == pytest.approx(1, abs=0.005)
        assert (y == 0).mean() == pytest.approx(0.2, abs=0.005)
        assert np.allclose(np.unique(y), [0, 1.25])
    assert ((one == 0) & (two == 0)).mean() == pytest.approx(0.04, abs=0.005)
    threads = backend.get_num_threads()
    try:
        for count in (1, 3):
            backend.set_num_threads(count)
            layer = nn.Dropout(0.2).build(seed=0)
            assert np.array_equal(layer(x), one)
            layer.discard_saved()
    finally:
        backend.set_num_threads(threads)
    assert np.array_equal(layer.eval()(x), x)
    assert np.array_equal(layer.inference()(x), x)
