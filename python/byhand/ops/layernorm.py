"""Layer normalisation over the last axis, of x or of a residual sum.

    y  = w * shat + b,      shat = (s - mean) * rstd,      rstd = 1 / sqrt(var + eps),   s = x + add
    dx = rstd * (g - mean(g) - shat * mean(g * shat)) + ds,      g = w * dy
    dw = sum over rows of dy * shat,      db = sum over rows of dy

Ba, Kiros and Hinton, "Layer normalization" (2016), equation 4; the variance is the mean squared
distance from the mean (divided by C, not C - 1), taken in a second pass. Saved: s, w, mean, rstd.
"""

from __future__ import annotations

import numpy as np

from byhand.backend import (
    Acc,
    Array,
    In,
    Out,
    empty,
    kernels,
    multiprocessors,
    reference_kernel,
    statistics,
)
from byhand.ops import check
from byhand.ops.check import Saved
from byhand.ops.declare import op


def mean_last(a: Array) -> Array:
    """The mean over the last axis, kept as an axis of size 1; 0 when it is empty."""
    return a.sum(axis=-1, keepdims=True) / max(a.shape[-1], 1)


def sum_of(kernel: str, s: Array | None, x: Array, add: Array | None) -> Array:
    """What is normalised: x, or x + add as it is written to s."""
    if s is None and add is None:
        return x
    if s is None or add is None:
        raise ValueError(f"{kernel}: s and add must be given together")
    s[...] = x + add
    return s


@reference_kernel
def layernorm_forward(
    y: Out,
    s: Out | None,
    mean: Out[np.float32],
    rstd: Out[np.float32],
    x: In,
    w: In,
    b: In | None,
    add: In | None,
    eps: float,
) -> None:
    x = sum_of("layernorm_forward", s, x, add)
    mu = mean_last(x)
    centred = x - mu
    scale = 1 / np.sqrt(mean_last(centred * centred) + eps)
    mean[...] = mu[..., 0]
    rstd[...] = scale[..., 0]
    normal = centred * scale * w
    y[...] = normal if b is None else normal + b


@reference_kernel
def layernorm_backward(
    dx: Out,
    dw: Acc | None,
    db: Acc | None,
    work: Out[np.float32],
    dy: In,
    x: In,
    w: In,
    mean: In[np.float32],
    rstd: In[np.float32],
    ds: In | None,
) -> None:
    rows = tuple(range(x.ndim - 1))
    scale = rstd[..., None]
    shat = (x - mean[..., None]) * scale
    if dw is not None:
        dw += (dy * shat).sum(axis=rows)
    if db is not None:
        db += dy.sum(axis=rows)
    work[...] = 0  # the native kernels keep partial sums of dw and db here
    g = dy * w
    through = mean_last(g) + shat * mean_last(g * shat)
    dx[...] = scale * (g - through) if ds is None else scale * (g - through) + ds


def row_groups(rows: int, x: Array) -> int:
    """In how many groups of rows the gradients of the parameters are summed.

    It depends on the shape and the device alone, and not on the number of threads: the order of the
    sums, and so their bits, must not change with that. A GPU gets as many groups as blocks fit on
    it, fewer for few rows, so that the partial sums stay small beside the rows.
    """
    resident = min(4, max(1, 8192 // max(x.shape[-1], 1)))  # blocks that fit a multiprocessor
    return max(1, min(resident * multiprocessors(x), rows // 16))


@op(x="... C", w="C", b="C?")
def forward(x: Array, w: Array, b: Array | None = None, eps: float = 1e-5) -> tuple[Array, Saved]:
    """x (..., C), w (C,), b (C,) or None -> y of x's shape, saved.

    ValueError when eps is negative, or when w or b does not have the length of x's last axis.
    """
    y, _, saved = _forward(x, None, w, b, eps)
    return y, saved


@op(x="... C", add="... C", w="C", b="C?")
def forward_add(
    x: Array, add: Array, w: Array, b: Array | None = None, eps: float = 1e-5
) -> tuple[Array, Array, Saved]:
    """The norm of the residual sum s = x + add, in one pass: x, add (..., C) -> y, s, saved.

    In bfloat16 s is rounded once, and y is computed from the rounded s. Pass the gradient of s to
    ``backward`` as ``add``; what it returns is the gradient of x and that of add.
    """
    return _forward(x, add, w, b, eps)


def _forward(
    x: Array, add: Array | None, w: Array, b: Array | None, eps: float
) -> tuple[Array, Array, Saved]:
    kernel = kernels(x).layernorm_forward
    check.eps("layernorm.forward", eps)
    shape = x.shape
    f = statistics(x)
    y, mean, rstd = empty(shape, x), empty(shape[:-1], x, f), empty(shape[:-1], x, f)
    s = None if add is None else empty(shape, x)
    kernel(y, s, mean, rstd, x, w, b, add, eps)
    s = x if s is None else s
    return y, s, (s, w, mean, rstd)


@op(saved={"s": "... C"}, dy="... C", dw="C?", db="C?", add="... C?")
def backward(
    dy: Array,
    saved: Saved,
    dw: Array | None = None,
    db: Array | None = None,
    add: Array | None = None,
) -> Array:
    """dy (..., C) -> dx of the same shape; adds into dw (C,) and db (C,), each None when frozen.

    add (..., C): another gradient of s (from the residual connection), added to dx.
    """
    s, w, mean, rstd = saved
    shape = s.shape
    dx, work = empty(shape, s), empty((row_groups(mean.size, s), 2, shape[-1]), mean)
    kernels(s).layernorm_backward(dx, dw, db, work, dy, s, w, mean, rstd, add)
    return dx
