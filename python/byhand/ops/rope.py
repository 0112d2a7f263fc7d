"""Rotary position embedding.

    y_a = x_a cos - x_b sin      y_b = x_b cos + x_a sin        of the pairs (a, b) of each head
    dx_a = dy_a cos + dy_b sin   dx_b = dy_b cos - dy_a sin

Su et al., "RoFormer: enhanced transformer with rotary position embedding" (2021), equation 34: the
vector of a position is rotated by angles proportional to the position, so that the product of a
rotated query and a rotated key depends on their distance only. The backward pass is the rotation by
the negative angles. The tables hold a row for each position and a column for each pair; if they
have fewer columns than a head has pairs, the rest of the head is copied. Saved: what gives the
angles.
"""

from __future__ import annotations

import numpy as np

from byhand.backend import (
    Array,
    In,
    StridedIn,
    StridedOut,
    empty,
    kernels,
    reference_kernel,
)
from byhand.ops import check
from byhand.ops.check import Saved
from byhand.ops.declare import op


def _pairs(pairs: int, interleaved: bool) -> tuple[slice, slice]:
    """Where the first and the second elements of the pairs are in a head."""
    if interleaved:
        return slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)
    return slice(0, pairs), slice(pairs, 2 * pairs)


def _rotated(x: Array, cos: Array, sin: Array, rows: Array, interleaved: bool) -> Array:
    """x (B, T, H, D) rotated by the angles of these rows (B or 1, T) of the tables."""
    cos, sin = cos[rows][:, :, None], sin[rows][:, :, None]
    first, second = _pairs(cos.shape[-1], interleaved)
    a, b = x[..., first], x[..., second]
    y = x.copy()
    y[..., first] = a * cos - b * sin
    y[..., second] = b * cos + a * sin
    return y


def _rows(x: Array, positions: Array | None, start: int) -> Array:
    return np.arange(start, start + x.shape[1])[None] if positions is None else positions


@reference_kernel
def rope_forward(
    y: StridedOut,
    x: StridedIn,
    cos: In[np.float32],
    sin: In[np.float32],
    positions: In[np.int64] | None,
    start: int,
    interleaved: bool,
) -> None:
    y[...] = _rotated(x, cos, sin, _rows(x, positions, start), interleaved)


@reference_kernel
def rope_backward(
    dx: StridedOut,
    dy: StridedIn,
    cos: In[np.float32],
    sin: In[np.float32],
    positions: In[np.int64] | None,
    start: int,
    interleaved: bool,
) -> None:
    dx[...] = _rotated(dy, cos, -sin, _rows(dy, positions, start), interleaved)


@op(x="B T H D", cos="N F", sin="N F", positions="B T?", out="B T H D?")
def forward(
    x: Array,
    cos: Array,
    sin: Array,
    positions: Array | None = None,
    start: int = 0,
    interleaved: bool = False,
    out: Array | None = None,
) -> tuple[Array, Saved]:
    """x (B, T, H, D) -> y of the same shape, saved.

    x and y may be strided views whose last axis is contiguous, such as the queries and keys in one
    packed array.

    cos, sin: (N, F) float32, row p for position p, 2 F <= D. The first 2 F elements of a head are
        rotated: pair i is (i, i + F), as in Llama and GPT-NeoX, or with `interleaved`
        (2 i, 2 i + 1), as in GPT-J.
    positions: (B, T) int64, the position of each vector; start + t when None.
    out: the array to write into; it may be x itself, which is then rotated in place.

    ValueError when a shape does not fit or the positions from `start` on exceed the tables,
    IndexError for a position outside 0..N-1 (of numpy arrays), TypeError for a view with gaps in
    its last axis.
    """
    kernel = kernels(x).rope_forward
    shape, (positions_in_table, pairs) = x.shape, cos.shape
    if 2 * pairs > shape[3]:
        expected = f"(N, F) with F of at most {shape[3] // 2}"
        error = check.wrong_shape("rope.forward", "cos", expected, cos)
        raise ValueError(f"{error}, where x has shape {shape}")
    if positions is not None:
        check.ids(
            "rope.forward", "positions", positions, positions_in_table, of="the rows of cos and sin"
        )
    elif start < 0 or start + shape[1] > positions_in_table:
        raise ValueError(
            f"rope.forward: the positions {start}..{start + shape[1] - 1} are outside the rows of "
            f"cos and sin 0..{positions_in_table - 1}"
        )
    check.last_axis("rope.forward", "x", x)
    if out is not None:
        check.last_axis("rope.forward", "out", out)
        check.writable("rope.forward", "out", out)
    y = empty(shape, x) if out is None else out
    kernel(y, x, cos, sin, positions, start, interleaved)
    return y, (shape, cos, sin, positions, start, interleaved)


@op(saved={"shape": "(B T H D)"}, dy="B T H D", out="B T H D?")
def backward(dy: Array, saved: Saved, out: Array | None = None) -> Array:
    """dy (B, T, H, D) -> dx of the same shape, written into `out`, which may be dy, or a new
    array.
    """
    shape, *angles = saved
    check.last_axis("rope.backward", "dy", dy)
    if out is not None:
        check.last_axis("rope.backward", "out", out)
        check.writable("rope.backward", "out", out)
    dx = empty(shape, dy) if out is None else out
    kernels(dy).rope_backward(dx, dy, *angles)
    return dx
