"""Layer normalisation over the last axis.

    y  = w * xhat + b,      xhat = (x - mean) * rstd,      rstd = 1 / sqrt(var + eps)
    dx = rstd * (g - mean(g) - xhat * mean(g * xhat)),      g = w * dy
    dw = sum over rows of dy * xhat,      db = sum over rows of dy

Ba, Kiros and Hinton, "Layer normalization" (2016), equation 4; the variance is the mean squared
distance from the mean (divided by C, not C - 1), taken in a second pass. Saved: x, w, mean, rstd.
"""

import numpy as np

from byhand.backend import Acc, Array, In, Out, empty, kernels, reference_kernel, statistics
from byhand.ops import check
from byhand.ops.check import Saved


def _mean(a: Array) -> Array:
    """Over the last axis; 0 when that is empty."""
    return a.sum(axis=-1, keepdims=True) / max(a.shape[-1], 1)


@reference_kernel
def layernorm_forward(y: Out, mean: Out, rstd: Out, x: In, w: In, b: In | None, eps: float) -> None:
    mu = _mean(x)
    centred = x - mu
    scale = 1 / np.sqrt(_mean(centred * centred) + eps)
    mean[...] = mu[..., 0]
    rstd[...] = scale[..., 0]
    normal = centred * scale * w
    y[...] = normal if b is None else normal + b


@reference_kernel
def layernorm_backward(
    dx: Out,
    dw: Acc | None,
    db: Acc | None,
    work: Out,
    dy: In,
    x: In,
    w: In,
    mean: In,
    rstd: In,
    add: In | None,
) -> None:
    rows = tuple(range(x.ndim - 1))
    scale = rstd[..., None]
    xhat = (x - mean[..., None]) * scale
    if dw is not None:
        dw += (dy * xhat).sum(axis=rows)
    if db is not None:
        db += dy.sum(axis=rows)
    work[...] = 0  # the native kernels keep partial sums of dw and db here
    g = dy * w
    through = _mean(g) + xhat * _mean(g * xhat)
    dx[...] = scale * (g - through) if add is None else scale * (g - through) + add


def _groups(rows: int) -> int:
    # A function of the shape alone: the order of the sums, and so the bits, must not know how many
    # threads ran.
    return max(1, min(128, rows // 16))


@check.door
def forward(x: Array, w: Array, b: Array | None = None, eps: float = 1e-5) -> tuple[Array, Saved]:
    """x (..., C), w (C,), b (C,) or None -> y of x's shape, saved.

    ValueError when w or b does not have the length of x's last axis.
    """
    kernel = kernels(x).layernorm_forward
    shape = x.shape
    if not shape or w.shape != shape[-1:]:
        raise check.wrong_shape("layernorm.forward", "w", shape[-1:] or "of x's last axis", w)
    if b is not None and b.shape != w.shape:
        raise check.wrong_shape("layernorm.forward", "b", w.shape, b)
    f = statistics(x)
    y, mean, rstd = empty(shape, x), empty(shape[:-1], x, f), empty(shape[:-1], x, f)
    kernel(y, mean, rstd, x, w, b, eps)
    return y, (x, w, mean, rstd)


@check.door
def backward(
    dy: Array,
    saved: Saved,
    dw: Array | None = None,
    db: Array | None = None,
    add: Array | None = None,
) -> Array:
    """dy (..., C) -> dx of the same shape; adds into dw (C,) and db (C,), each None when frozen.

    add (..., C): a gradient that reaches x by another way (a residual), added to dx on the way out.
    """
    x, w, mean, rstd = saved
    shape = x.shape
    if dy.shape != shape:
        raise check.wrong_shape("layernorm.backward", "dy", shape, dy)
    if add is not None and add.shape != shape:
        raise check.wrong_shape("layernorm.backward", "add", shape, add)
    if dw is not None and dw.shape != w.shape:
        raise check.wrong_shape("layernorm.backward", "dw", w.shape, dw)
    if db is not None and db.shape != w.shape:
        raise check.wrong_shape("layernorm.backward", "db", w.shape, db)
    dx, work = empty(shape, x), empty((_groups(mean.size), 2, shape[-1]), mean)
    kernels(x).layernorm_backward(dx, dw, db, work, dy, x, w, mean, rstd, add)
    return dx
