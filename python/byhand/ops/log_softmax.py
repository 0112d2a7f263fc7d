"""The logarithm of softmax over the last axis, without computing the softmax first.

    y_j = x_j - log sum_k exp(x_k)
    dx  = dy - exp(y) sum_k dy_k

Taking log(softmax(x)) would give -inf where the softmax underflows; with the maximum m subtracted,
log sum exp(x) = m + log sum exp(x - m) is finite wherever x is (Blanchard, Higham and Higham,
"Accurately computing the log-sum-exp and softmax functions", 2021, equation 1.3). Saved: y.
"""

from __future__ import annotations

import numpy as np

from byhand.backend import Array, In, Out, empty, kernels, reference_kernel
from byhand.ops.check import Saved
from byhand.ops.declare import op


@reference_kernel
def log_softmax_forward(y: Out, x: In) -> None:
    z = x - x.max(axis=-1, keepdims=True, initial=-np.inf)
    with np.errstate(divide="ignore"):  # rows without columns
        y[...] = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


@reference_kernel
def log_softmax_backward(dx: Out, dy: In, y: In) -> None:
    dx[...] = dy - np.exp(y) * dy.sum(axis=-1, keepdims=True)


@op(x="... C")
def forward(x: Array) -> tuple[Array, Saved]:
    """x (..., C) -> y of the same shape, saved."""
    kernel = kernels(x).log_softmax_forward
    y = empty(x.shape, x)
    kernel(y, x)
    return y, (y,)


@op(saved={"y": "... C"}, dy="... C")
def backward(dy: Array, saved: Saved) -> Array:
    """dy (..., C) -> dx of the same shape."""
    (y,) = saved
    dx = empty(y.shape, y)
    kernels(y).log_softmax_backward(dx, dy, y)
    return dx
