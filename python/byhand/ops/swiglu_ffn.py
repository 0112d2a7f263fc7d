"""The gated feed-forward layer of a transformer.

    gate = x w1T + b1,      up = x w3T + b3,      h = f(gate) up,      y = h w2T + b2 + add
    dh = dy w2,      dgate = dh up f'(gate),      dup = dh f(gate),      dx = dgate w1 + dup w3
    dw2 = dyT h,      dw1 = dgateT x,      dw3 = dupT x,      db2, db1, db3 = sums of dy, dgate, dup

Shazeer, "GLU variants improve transformer" (2020), equation 6: SwiGLU with f = silu, GEGLU with f =
gelu. As one op, f, the product of gate and up, biases and residual are applied while a tile of the
matrix product is still in the cache, and h exists for a block of rows at a time only: the backward
pass recomputes it from gate and up, where it evaluates f' anyway. Saved: x, gate, up, w1, w3, w2.

Two weights and not one of 2F rows: each is a layer of its own in the files of other libraries, and
an adapter may replace one of them; one product of twice the width would not be faster.
"""

from __future__ import annotations

import math
from typing import Literal

from byhand.backend import Acc, Array, In, Out, empty, is_cupy, kernels, reference_kernel
from byhand.ops import check
from byhand.ops.activation import NUMBERED, gradient, value
from byhand.ops.check import Saved
from byhand.ops.declare import op
from byhand.ops.linear import as_rows
from byhand.ops.precision import operands

# The functions that the gate can have -> their numbers in the kernels.
FUNCTIONS = {name: NUMBERED.index(name) for name in ("silu", "gelu", "gelu_tanh")}


@reference_kernel
def swiglu_ffn_forward(
    y: Out,
    gate: Out,
    up: Out,
    h: Out,
    x: In,
    w1: In,
    b1: In | None,
    w3: In,
    b3: In | None,
    w2: In,
    b2: In | None,
    add: In | None,
    function: int,
    bf16: bool,
) -> None:
    x, w1, w3, w2 = operands(bf16, x, w1, w3, w2)
    gate[...] = x @ w1.T if b1 is None else x @ w1.T + b1
    up[...] = x @ w3.T if b3 is None else x @ w3.T + b3
    h[...] = 0  # the native kernels keep a block of the hidden layer here
    (hidden,) = operands(bf16, value(gate, NUMBERED[function], 1, 1) * up)
    out = hidden @ w2.T
    if b2 is not None:
        out = out + b2
    y[...] = out if add is None else out + add


@reference_kernel
def swiglu_ffn_backward(
    dx: Out,
    h: Out,
    dgate: Out,
    dup: Out,
    dw1: Acc | None,
    db1: Acc | None,
    dw3: Acc | None,
    db3: Acc | None,
    dw2: Acc | None,
    db2: Acc | None,
    dy: In,
    x: In,
    gate: In,
    up: In,
    w1: In,
    w3: In,
    w2: In,
    function: int,
    bf16: bool,
) -> None:
    name = NUMBERED[function]
    if db2 is not None:
        db2 += as_rows(dy).sum(axis=0)
    h[...] = dgate[...] = dup[...] = 0  # the native kernels keep blocks of the hidden layer here
    activated = value(gate, name, 1, 1)
    dy, hidden, w2, x, w1, w3 = operands(bf16, dy, activated * up, w2, x, w1, w3)
    if dw2 is not None:
        dw2 += as_rows(dy).T @ as_rows(hidden)
    dh = dy @ w2
    d1, d3 = gradient(dh * up, gate, name, 1, 1), dh * activated
    if db1 is not None:
        db1 += as_rows(d1).sum(axis=0)
    if db3 is not None:
        db3 += as_rows(d3).sum(axis=0)
    d1, d3 = operands(bf16, d1, d3)
    if dw1 is not None:
        dw1 += as_rows(d1).T @ as_rows(x)
    if dw3 is not None:
        dw3 += as_rows(d3).T @ as_rows(x)
    dx[...] = d1 @ w1 + d3 @ w3


def block(rows: int, hidden: int, gpu: bool = False) -> int:
    """How many rows of the hidden layer to compute at a time, as in gelu_ffn."""
    most = 2**14 if gpu else max(256, 2**21 // max(hidden, 1))
    return max(1, -(-rows // max(1, -(-rows // most))))


@op(x="... C", w1="F C", b1="F?", w3="F C", b3="F?", w2="C F", b2="C?", add="... C?")
def forward(
    x: Array,
    w1: Array,
    b1: Array | None,
    w3: Array,
    b3: Array | None,
    w2: Array,
    b2: Array | None,
    add: Array | None = None,
    activation: Literal["silu", "gelu", "gelu_tanh"] = "silu",
    bf16: bool = False,
) -> tuple[Array, Saved]:
    """x (..., C), w1 and w3 (F, C), b1 and b3 (F,), w2 (C, F), b2 (C,), add (..., C) -> y (..., C),
    saved.

    b1, b3, b2 and add may be None. activation: the function f of the gate. With bf16 the products
    take their factors rounded to bfloat16, here and in backward. ValueError for a shape or another
    word for activation.
    """
    kernel = kernels(x).swiglu_ffn_forward
    if not isinstance(activation, str) or activation not in FUNCTIONS:
        expected = "'silu', 'gelu' or 'gelu_tanh'"
        raise check.wrong_value("swiglu_ffn.forward", "activation", expected, activation)
    function = FUNCTIONS[activation]
    shape, hidden = x.shape, w1.shape[0]
    inner = (*shape[:-1], hidden)
    y, gate, up = empty(shape, x), empty(inner, x), empty(inner, x)
    h = empty((block(math.prod(shape[:-1]), hidden, is_cupy(x)), hidden), x)
    kernel(y, gate, up, h, x, w1, b1, w3, b3, w2, b2, add, function, bf16)
    return y, (x, gate, up, w1, w3, w2, function, bf16)


@op(
    saved={"x": "... C", "gate": "... F", "up": "... F"},
    dy="... C",
    dw1="F C?",
    db1="F?",
    dw3="F C?",
    db3="F?",
    dw2="C F?",
    db2="C?",
)
def backward(
    dy: Array,
    saved: Saved,
    dw1: Array | None = None,
    db1: Array | None = None,
    dw3: Array | None = None,
    db3: Array | None = None,
    dw2: Array | None = None,
    db2: Array | None = None,
) -> Array:
    """dy (..., C) -> dx (..., C); adds into dw1, db1, dw3, db3, dw2, db2, each None when frozen.
    The gradient of `add` is dy.
    """
    x, gate, up, w1, w3, w2, function, bf16 = saved
    hidden = w1.shape[0]
    work = (block(math.prod(x.shape[:-1]), hidden, is_cupy(x)), hidden)
    dx = empty(x.shape, x)
    h, dgate, dup = (empty(work, x) for _ in range(3))
    kernels(x).swiglu_ffn_backward(
        dx, h, dgate, dup, dw1, db1, dw3, db3, dw2, db2, dy, x, gate, up, w1, w3, w2, function, bf16
    )
    return dx
