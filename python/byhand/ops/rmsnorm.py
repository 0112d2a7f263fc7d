"""Root mean square normalisation over the last axis, of x or of a residual sum.

    y  = w * shat,      shat = s * rstd,      rstd = 1 / sqrt(mean(s * s) + eps),      s = x + add
    dx = rstd * (g - shat * mean(g * shat)) + ds,      g = w * dy
    dw = sum over rows of dy * shat

Zhang and Sennrich, "Root mean square layer normalization" (2019), equation 4, with layernorm's eps
under the root: layer normalisation without the mean and without a bias. Saved: s, w, rstd.
"""

from __future__ import annotations

import numpy as np

from byhand.backend import Acc, Array, In, Out, empty, kernels, reference_kernel, statistics
from byhand.ops import check
from byhand.ops.check import Saved
from byhand.ops.declare import op
from byhand.ops.layernorm import mean_last, row_groups, sum_of


@reference_kernel
def rmsnorm_forward(
    y: Out, s: Out | None, rstd: Out[np.float32], x: In, w: In, add: In | None, eps: float
) -> None:
    x = sum_of("rmsnorm_forward", s, x, add)
    scale = 1 / np.sqrt(mean_last(x * x) + eps)
    rstd[...] = scale[..., 0]
    y[...] = x * scale * w


@reference_kernel
def rmsnorm_backward(
    dx: Out,
    dw: Acc | None,
    work: Out[np.float32],
    dy: In,
    x: In,
    w: In,
    rstd: In[np.float32],
    ds: In | None,
) -> None:
    scale = rstd[..., None]
    shat = x * scale
    if dw is not None:
        dw += (dy * shat).sum(axis=tuple(range(x.ndim - 1)))
    work[...] = 0  # the native kernels keep partial sums of dw here
    g = dy * w
    through = shat * mean_last(g * shat)
    dx[...] = scale * (g - through) if ds is None else scale * (g - through) + ds


@op(x="... C", w="C")
def forward(x: Array, w: Array, eps: float = 1e-5) -> tuple[Array, Saved]:
    """x (..., C), w (C,) -> y of x's shape, saved.

    ValueError when eps is negative, or when w does not have the length of x's last axis.
    """
    y, _, saved = _forward(x, None, w, eps)
    return y, saved


@op(x="... C", add="... C", w="C")
def forward_add(x: Array, add: Array, w: Array, eps: float = 1e-5) -> tuple[Array, Array, Saved]:
    """The norm of the residual sum s = x + add, in one pass: x, add (..., C) -> y, s, saved.

    In bfloat16 s is rounded once, and y is computed from the rounded s. Pass the gradient of s to
    ``backward`` as ``add``; what it returns is the gradient of x and that of add.
    """
    return _forward(x, add, w, eps)


def _forward(x: Array, add: Array | None, w: Array, eps: float) -> tuple[Array, Array, Saved]:
    kernel = kernels(x).rmsnorm_forward
    check.eps("rmsnorm.forward", eps)
    shape = x.shape
    y, rstd = empty(shape, x), empty(shape[:-1], x, statistics(x))
    s = None if add is None else empty(shape, x)
    kernel(y, s, rstd, x, w, add, eps)
    s = x if s is None else s
    return y, s, (s, w, rstd)


@op(saved={"s": "... C"}, dy="... C", dw="C?", add="... C?")
def backward(dy: Array, saved: Saved, dw: Array | None = None, add: Array | None = None) -> Array:
    """dy (..., C) -> dx of the same shape; adds into dw (C,), None when frozen.

    add (..., C): another gradient of s (from the residual connection), added to dx.
    """
    s, w, rstd = saved
    shape = s.shape
    dx, work = empty(shape, s), empty((row_groups(rstd.size, s), shape[-1]), rstd)
    kernels(s).rmsnorm_backward(dx, dw, work, dy, s, w, rstd, add)
    return dx
