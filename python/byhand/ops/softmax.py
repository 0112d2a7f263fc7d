"""Softmax over the last axis, with a scale, a mask and causality.

    y_j = exp(scale x_j) / sum_k exp(scale x_k)          over the keys k that may be seen
    dx  = scale * y * (dy - sum_k dy_k y_k)

Bridle, "Probabilistic interpretation of feedforward classification network outputs" (1990),
equation 3. The largest score is subtracted before exp, which does not change the quotient and
keeps it finite. A row without a visible key is a row of zeros, and so is its gradient. Saved: y.
"""

from __future__ import annotations

import numpy as np

from byhand.backend import Array, In, Out, StridedIn, empty, kernels, reference_kernel
from byhand.ops import check
from byhand.ops.check import Saved
from byhand.ops.declare import op


def masked_scores(scores: Array, mask: Array | None, causal: bool) -> Array:
    """scores (..., T, S) with -inf wherever query i may not see key j; shared with attention."""
    if mask is not None:
        scores = np.where(mask, scores, scores.dtype.type(-np.inf))
    if causal:
        queries, keys = scores.shape[-2:]
        seen = np.tri(queries, keys, keys - queries, dtype=bool)
        scores = np.where(seen, scores, scores.dtype.type(-np.inf))
    return scores


@reference_kernel
def softmax_forward(
    y: Out, x: In, mask: StridedIn[np.bool_] | None, scale: float, causal: bool
) -> None:
    z = masked_scores(scale * x, mask, causal)
    top = z.max(axis=-1, keepdims=True, initial=-np.inf)
    e = np.exp(z - np.where(top == -np.inf, 0, top))  # -inf - -inf would be NaN in an empty row
    total = e.sum(axis=-1, keepdims=True)
    y[...] = e / np.where(total == 0, 1, total)


@reference_kernel
def softmax_backward(dx: Out, dy: In, y: In, scale: float) -> None:
    dx[...] = scale * y * (dy - (dy * y).sum(axis=-1, keepdims=True))


@op(x="... S", mask="*?")
def forward(
    x: Array, mask: Array | None = None, scale: float = 1.0, causal: bool = False
) -> tuple[Array, Saved]:
    """x (..., T, S) -> y of the same shape, saved.

    mask: bool, broadcastable to x's shape, True where a key may be seen. causal: query i sees key j
    when j <= i + S - T, so the last query sees every key.
    ValueError when the mask does not fit, or when causal is set and x has fewer than two axes.
    """
    kernel = kernels(x).softmax_forward
    shape = x.shape
    if causal and len(shape) < 2:
        raise check.wrong_shape("softmax.forward", "x", "(..., T, S)", x)
    if mask is not None:
        mask = check.broadcast_mask("softmax.forward", mask, shape)
    y = empty(shape, x)
    kernel(y, x, mask, scale, causal)
    return y, (y, scale)


@op(saved={"y": "... S"}, dy="... S")
def backward(dy: Array, saved: Saved) -> Array:
    """dy (..., S) -> dx of the same shape."""
    y, scale = saved
    dx = empty(y.shape, y)
    kernels(y).softmax_backward(dx, dy, y, scale)
    return dx
