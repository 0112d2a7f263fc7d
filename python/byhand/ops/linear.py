"""The affine map of the last axis.

    y  = x wT + b + add
    dx = dy w,      dw = dyT x,      db = sum over rows of dy

Rumelhart, Hinton and Williams, "Learning representations by back-propagating errors" (1986),
equations 1, 5, 6 and 7, for whole matrices. w is stored as (N, K), one row for each output, as is
usual. Saved: x, w, bf16.
"""

from __future__ import annotations

import math

from byhand.backend import Acc, Array, In, Out, empty, kernels, reference_kernel
from byhand.ops.check import Saved
from byhand.ops.declare import op
from byhand.ops.precision import operands


def as_rows(a: Array) -> Array:
    """(..., C) seen as (R, C). The row count is spelled out: -1 cannot be inferred when C is 0."""
    return a.reshape(math.prod(a.shape[:-1]), a.shape[-1])


@reference_kernel
def linear_forward(y: Out, x: In, w: In, b: In | None, add: In | None, bf16: bool) -> None:
    x, w = operands(bf16, x, w)
    out = x @ w.T
    if b is not None:
        out = out + b
    y[...] = out if add is None else out + add


@reference_kernel
def linear_backward(
    dx: Out | None, dw: Acc | None, db: Acc | None, dy: In, x: In, w: In, bf16: bool
) -> None:
    if db is not None:
        db += as_rows(dy).sum(axis=0)
    dy, x, w = operands(bf16, dy, x, w)
    if dw is not None:
        dw += as_rows(dy).T @ as_rows(x)
    if dx is not None:
        dx[...] = dy @ w


@op(x="... K", w="N K", b="N?", add="... N?")
def forward(
    x: Array, w: Array, b: Array | None = None, add: Array | None = None, bf16: bool = False
) -> tuple[Array, Saved]:
    """x (..., K), w (N, K), b (N,) or None, add (..., N) or None -> y (..., N), saved.

    With bf16 the products take their factors rounded to bfloat16, here and in backward.

    ValueError for a shape.
    """
    kernel = kernels(x).linear_forward
    y = empty(x.shape[:-1] + w.shape[:1], x)
    kernel(y, x, w, b, add, bf16)
    return y, (x, w, bf16)


@op(saved={"x": "... K", "w": "N K"}, dy="... N", dw="N K?", db="N?")
def backward(
    dy: Array,
    saved: Saved,
    dw: Array | None = None,
    db: Array | None = None,
    need_dx: bool = True,
) -> Array | None:
    """dy (..., N) -> dx (..., K), or None when need_dx is False; adds into dw (N, K) and db (N,),
    None when frozen.

    The gradient of `add` is dy itself.
    """
    x, w, bf16 = saved
    dx = empty(x.shape, x) if need_dx else None
    kernels(x).linear_backward(dx, dw, db, dy, x, w, bf16)
    return dx
