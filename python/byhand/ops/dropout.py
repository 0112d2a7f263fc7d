"""Inverted dropout, with a residual to add.

    y  = z * x + add,      z = 0 with probability q, 1/(1-q) otherwise
    dx = z * dy            q = p to the nearest multiple of 2^-16, less than 1

Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting" (2014),
section 4, scaled while training so that inference needs no change (section 10). z is drawn from
(seed, offset) by a counter-based generator and drawn again in backward: the mask is never stored.
An offset is an integer, or a pair of an integer and a 0-d int64 array on the device: their sum,
taken when the kernel runs, so that each launch of a captured CUDA graph draws another mask.
Saved: p, seed, offset.
"""

from __future__ import annotations

import numpy as np

from byhand.backend import Array, In, Out, empty, kernels, reference_kernel
from byhand.ops import check, philox
from byhand.ops.check import Saved
from byhand.ops.declare import op
from byhand.ops.philox import Offset


def _dropped(x: Array, p: float, seed: int, offset: Offset) -> Array:
    kept = philox.keep(1, x.size, p, seed, philox.sum_of(offset)).reshape(x.shape)
    # np.where, not a product with 0: a NaN that is dropped must become 0.
    return np.where(kept, x * x.dtype.type(philox.rule(p)[1]), x.dtype.type(0))


@reference_kernel
def dropout_forward(y: Out, x: In, add: In | None, p: float, seed: int, offset: Offset) -> None:
    out = _dropped(x, p, seed, offset)
    y[...] = out if add is None else out + add


@reference_kernel
def dropout_backward(dx: Out, dy: In, p: float, seed: int, offset: Offset) -> None:
    dx[...] = _dropped(dy, p, seed, offset)


@op(x="...", add="...?")
def forward(
    x: Array, p: float, seed: int, offset: Offset, add: Array | None = None
) -> tuple[Array, Saved]:
    """x (...) -> y of the same shape, saved; add has x's shape or is None.

    ValueError when p is outside 0 <= p < 1, seed or offset is not an unsigned 64-bit integer
    (offset may be a pair, as above), or for a shape.
    """
    kernel = kernels(x).dropout_forward
    check.probability("dropout.forward", "p", p)
    check.counter("dropout.forward", seed, offset)
    y = empty(x.shape, x)
    kernel(y, x, add, p, seed, offset)
    return y, (x.shape, p, seed, offset)


@op(saved={"shape": "(...)"}, dy="...")
def backward(dy: Array, saved: Saved) -> Array:
    """dy (...) -> dx of the same shape. The gradient of `add` is dy."""
    shape, p, seed, offset = saved
    dx = empty(shape, dy)
    kernels(dy).dropout_backward(dx, dy, p, seed, offset)
    return dx
