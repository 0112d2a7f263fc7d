"""The feed-forward layer of a transformer: two linear maps with a GELU between them.

    pre = x w1T + b1,      h = gelu(pre),      y = h w2T + b2 + add
    dpre = (dy w2) * gelu'(pre),      dx = dpre w1
    dw2 = dyT h,      db2 = sum of dy,      dw1 = dpreT x,      db1 = sum of dpre

Vaswani et al., "Attention is all you need" (2017), equation 2, with the GELU of Radford et al.
(2018). As one op, bias, GELU and residual are applied while a tile of the product is still in the
cache, and h, the widest activation, exists for a block of rows at a time only: the backward pass
recomputes it from pre, where it evaluates the GELU's derivative anyway. Saved: x, pre, w1, w2.
"""

from __future__ import annotations

import math
from typing import Literal

from byhand.backend import Acc, Array, In, Out, empty, is_cupy, kernels, reference_kernel
from byhand.ops import check
from byhand.ops.bias_gelu import gelu, gelu_derivative
from byhand.ops.check import Saved
from byhand.ops.declare import op
from byhand.ops.linear import as_rows
from byhand.ops.precision import operands


@reference_kernel
def gelu_ffn_forward(
    y: Out,
    pre: Out,
    h: Out,
    x: In,
    w1: In,
    b1: In | None,
    w2: In,
    b2: In | None,
    add: In | None,
    tanh: bool,
    bf16: bool,
) -> None:
    x, w1, w2 = operands(bf16, x, w1, w2)
    pre[...] = x @ w1.T if b1 is None else x @ w1.T + b1
    h[...] = 0  # the native kernels keep a block of the hidden layer here
    (hidden,) = operands(bf16, gelu(pre, tanh))
    out = hidden @ w2.T
    if b2 is not None:
        out = out + b2
    y[...] = out if add is None else out + add


@reference_kernel
def gelu_ffn_backward(
    dx: Out,
    h: Out,
    dpre: Out,
    dw1: Acc | None,
    db1: Acc | None,
    dw2: Acc | None,
    db2: Acc | None,
    dy: In,
    x: In,
    pre: In,
    w1: In,
    w2: In,
    tanh: bool,
    bf16: bool,
) -> None:
    if db2 is not None:
        db2 += as_rows(dy).sum(axis=0)
    h[...] = dpre[...] = 0  # the native kernels keep blocks of the hidden layer here
    dy, hidden, w2, x, w1 = operands(bf16, dy, gelu(pre, tanh), w2, x, w1)
    if dw2 is not None:
        dw2 += as_rows(dy).T @ as_rows(hidden)
    d = (dy @ w2) * gelu_derivative(pre, tanh)
    if db1 is not None:
        db1 += as_rows(d).sum(axis=0)
    (d,) = operands(bf16, d)
    if dw1 is not None:
        dw1 += as_rows(d).T @ as_rows(x)
    dx[...] = d @ w1


def block(rows: int, hidden: int, gpu: bool = False) -> int:
    """How many rows of the hidden layer to compute at a time: some megabytes of it, in blocks of
    nearly equal size. Each block packs the weights and reads their gradients once, so blocks of a
    few rows would be slow. On a GPU each product must keep every multiprocessor busy, which takes
    many rows.
    """
    most = 2**14 if gpu else max(256, 2**21 // max(hidden, 1))
    return max(1, -(-rows // max(1, -(-rows // most))))


@op(x="... C", w1="F C", b1="F?", w2="C F", b2="C?", add="... C?")
def forward(
    x: Array,
    w1: Array,
    b1: Array | None,
    w2: Array,
    b2: Array | None,
    add: Array | None = None,
    approximate: Literal["none", "tanh"] = "tanh",
    bf16: bool = False,
) -> tuple[Array, Saved]:
    """x (..., C), w1 (F, C), b1 (F,), w2 (C, F), b2 (C,), add (..., C) -> y (..., C), saved.

    b1, b2 and add may be None. approximate is that of bias_gelu. With bf16 the products take their
    factors rounded to bfloat16, here and in backward. ValueError for a shape or another word for
    approximate.
    """
    kernel = kernels(x).gelu_ffn_forward
    tanh = check.gelu_is_tanh("gelu_ffn.forward", approximate)
    shape = x.shape
    hidden = w1.shape[0]
    inner = (*shape[:-1], hidden)
    y, pre = empty(shape, x), empty(inner, x)
    h = empty((block(math.prod(shape[:-1]), hidden, is_cupy(x)), hidden), x)
    kernel(y, pre, h, x, w1, b1, w2, b2, add, tanh, bf16)
    return y, (x, pre, w1, w2, tanh, bf16)


@op(saved={"x": "... C", "pre": "... F"}, dy="... C", dw1="F C?", db1="F?", dw2="C F?", db2="C?")
def backward(
    dy: Array,
    saved: Saved,
    dw1: Array | None = None,
    db1: Array | None = None,
    dw2: Array | None = None,
    db2: Array | None = None,
) -> Array:
    """dy (..., C) -> dx (..., C); adds into dw1, db1, dw2, db2, each None when frozen. The gradient
    of `add` is dy.
    """
    x, pre, w1, w2, tanh, bf16 = saved
    hidden = w1.shape[0]
    work = (block(math.prod(x.shape[:-1]), hidden, is_cupy(x)), hidden)
    dx, h, dpre = empty(x.shape, x), empty(work, x), empty(work, x)
    kernels(x).gelu_ffn_backward(dx, h, dpre, dw1, db1, dw2, db2, dy, x, pre, w1, w2, tanh, bf16)
    return dx
