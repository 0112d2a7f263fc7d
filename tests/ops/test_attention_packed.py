"""Attention's packed sequences, hidden tiles and added scores, through the public functions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from byhand import backend, nn
from byhand.ops import attention
from tests.kernel_case import generator
from tests.ops.attention_samples import numbered

LENGTHS = ((70, 17, 113), (64, 136))


def parts() -> Iterator[tuple[int, slice]]:
    for row, lengths in enumerate(LENGTHS):
        begin = 0
        for n in lengths:
            yield row, slice(begin, begin + n)
            begin += n


def inputs(kind: Any) -> list[Any]:
    rng = generator("attention", "packed sequences")
    return [rng.standard_normal((2, 200, 4, 16)).astype(kind) for _ in range(4)]


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"causal": True, "window": 20}])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_packed_sequence_has_the_bits_it_has_apart(
    native: str, options: dict[str, Any], threads: int
) -> None:
    q, k, v, dy = inputs(np.float32)
    slopes = np.array([0.5, 0.1, 0.02, 0], np.float32)
    options = {**options, "slopes": slopes, "softcap": 4.0}
    before = backend.get_num_threads()
    backend.set_num_threads(threads)
    try:
        with backend.use_cpu(native):
            o, saved = attention.forward(q, k, v, sequences=numbered(LENGTHS), **options)
            gradients = attention.backward(dy, saved)
            for row, part in parts():
                alone = [np.ascontiguousarray(a[row : row + 1, part]) for a in (q, k, v, dy)]
                other, saved = attention.forward(*alone[:3], **options)
                assert o[row, part].tobytes() == other.tobytes()
                for mine, theirs in zip(
                    gradients, attention.backward(alone[3], saved), strict=True
                ):
                    assert mine[row, part].tobytes() == theirs.tobytes()
    finally:
        backend.set_num_threads(before)


def test_another_sequence_moves_no_bit(native: str) -> None:
    q, k, v, dy = inputs(np.float32)
    own = slice(70, 87)
    with backend.use_cpu(native):
        o, saved = attention.forward(q, k, v, sequences=numbered(LENGTHS))
        first = [a[0, own].copy() for a in (o, *attention.backward(dy, saved))]
        for a in (q, k, v, dy):
            a[0, : own.start] += 1
            a[0, own.stop :] = -3
        o, saved = attention.forward(q, k, v, sequences=numbered(LENGTHS))
        for before, after in zip(first, (o, *attention.backward(dy, saved)), strict=True):
            assert before.tobytes() == after[0, own].tobytes()


def test_hidden_tiles_are_skipped_and_change_nothing(native: str) -> None:
    """A mask of blocks gives what the same mask gives where every tile is partly seen."""
    rng = generator("attention", "blocks")
    q, k, v, dy = (rng.standard_normal((1, 320, 2, 8)).astype(np.float32) for _ in range(4))
    blocks = np.kron(rng.random((5, 5)) < 0.4, np.ones((64, 64), bool))
    blocks[:, 64:128] = False
    poisoned = [a.copy() for a in (k, v)]
    unseen = ~blocks.any(0)
    with backend.use_cpu(native):
        o, saved = attention.forward(q, k, v, blocks)
        gradients = attention.backward(dy, saved)
        for a in poisoned:
            a[:, unseen] = np.nan
        again, saved = attention.forward(q, *poisoned, blocks)
    wide = [a.astype(np.float64) for a in (q, k, v, dy)]
    exact, saved = attention.forward(*wide[:3], blocks)
    for got, right in zip(
        (o, *gradients), (exact, *attention.backward(wide[3], saved)), strict=True
    ):
        assert np.allclose(got, right, atol=1e-5)
    assert o.tobytes() == again.tobytes()


def test_dbias_is_computed_where_it_is_asked_for() -> None:
    rng = generator("attention", "dbias")
    q, k, v, dy = rng.standard_normal((4, 2, 5, 3, 4))
    bias = rng.standard_normal((1, 3, 5, 5))
    _, saved = attention.forward(q, k, v, bias=bias)
    assert len(attention.backward(dy, saved)) == 3
    *_, dbias = attention.backward(dy, saved, need_dbias=True)
    assert dbias.shape == bias.shape
    out = tuple(np.full_like(a, np.nan) for a in (q, k, v, bias))
    *_, given = attention.backward(dy, saved, out)
    assert given is out[3]
    assert given.tobytes() == dbias.tobytes()
    shifted = np.broadcast_to(bias, (2, 3, 5, 5))
    _, saved = attention.forward(q, k, v, bias=shifted)
    assert np.allclose(attention.backward(dy, saved, need_dbias=True)[3].sum(0), dbias[0])


def test_a_bias_may_lie_in_memory_in_any_way(native: str) -> None:
    """T5's relative biases are a table (T, S, H), seen with the heads first."""
    kind = np.float32
    rng = generator("attention", "strides")
    for queries in (3, 70):
        q = rng.standard_normal((2, queries, 3, 8)).astype(kind)
        k = rng.standard_normal((2, 70, 3, 8)).astype(kind)
        bias = rng.standard_normal((queries, 70, 3)).astype(kind).transpose(2, 0, 1)[None]
        with backend.use_cpu(native):
            found = []
            for one in (bias, np.ascontiguousarray(bias)):
                o, saved = attention.forward(q, k, k, bias=one)
                found.append([o, *attention.backward(q, saved, need_dbias=True)])
        for mine, theirs in zip(*found, strict=True):
            assert mine.tobytes() == theirs.tobytes()


def test_slopes_leave_no_subnormal_products(native: str) -> None:
    """Of the many tiny probabilities those below 1e-27 count as 0 in the backward pass."""
    q, k, v = np.zeros((3, 1, 200, 1, 8), np.float32)
    dy = np.zeros((1, 200, 1, 8), np.float32)
    dy[0, -1] = 1
    with backend.use_cpu(native):
        _, saved = attention.forward(q, k, v, causal=True, slopes=np.ones(1, np.float32))
        dv = attention.backward(dy, saved)[2][0, ::-1, 0, 0]
    away = np.arange(200)
    assert not dv[away > 63].any()
    assert np.allclose(dv[away < 61], np.exp(-away[:61]) * (1 - np.exp(-1)), rtol=1e-5, atol=0)


@pytest.mark.parametrize("rule", ["slopes", "bias", "packed", "block-sparse", "local-global"])
@pytest.mark.parametrize("causal", [False, True])
def test_variants_equal_pytorch_with_a_dense_bias(rule: str, causal: bool) -> None:
    """In float64, with every gradient."""
    torch = pytest.importorskip("torch")
    n, heads = 70, 4
    rng = generator("attention", "pytorch", rule)
    q, k, v, dy = rng.standard_normal((4, 2, n, heads, 6))
    at = np.arange(n)
    ids = numbered(((30, 1, 39), (70,)))
    slopes = nn.alibi_slopes(heads)
    bias = rng.standard_normal((1, heads, n, n))
    blocks, few = nn.block_sparse_mask(n, 8, 3), nn.local_global_mask(n, 5, [0, 33])
    options: dict[str, Any] = {
        "slopes": {"slopes": slopes},
        "bias": {"bias": bias},
        "packed": {"sequences": ids},
        "block-sparse": {"mask": blocks},
        "local-global": {"mask": few},
    }[rule]
    added: Any = {
        "slopes": slopes[:, None, None] * (at - at[:, None]),
        "bias": bias,
        "packed": np.where(ids[:, None, :, None] == ids[:, None, None], 0, -np.inf),
        "block-sparse": np.where(blocks, 0, -np.inf),
        "local-global": np.where(few, 0, -np.inf),
    }[rule]
    leaves = [torch.tensor(a, requires_grad=True) for a in (q, k, v, added)]
    later = torch.tensor(np.where(at <= at[:, None], 0, -np.inf) if causal else 0.0)
    y = torch.nn.functional.scaled_dot_product_attention(
        *(a.transpose(1, 2) for a in leaves[:3]), attn_mask=leaves[3] + later
    ).transpose(1, 2)
    y.backward(torch.from_numpy(dy))
    o, saved = attention.forward(q, k, v, causal=causal, **options)
    found = attention.backward(dy, saved, need_dbias=rule == "bias")
    assert np.allclose(o, y.detach().numpy(), atol=1e-9)
    for mine, theirs in zip(found, leaves, strict=False):
        assert np.allclose(mine, theirs.grad.numpy(), atol=1e-9)
