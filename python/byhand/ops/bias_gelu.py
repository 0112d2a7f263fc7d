"""A bias and the Gaussian error linear unit.

    y  = gelu(x + b)
    dx = dy * gelu'(x + b),      db = sum over rows of dx

Hendrycks and Gimpel, "Gaussian error linear units" (2016): gelu(u) = u Phi(u), with Phi the normal
distribution function, or their approximation u/2 (1 + tanh(sqrt(2/pi) (u + 0.044715 u^3))). Saved:
x and b.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from byhand.backend import Acc, Array, In, Out, empty, kernels, reference_kernel
from byhand.ops import check
from byhand.ops.check import Saved
from byhand.ops.declare import op

_SQRT_2_OVER_PI = math.sqrt(2 / math.pi)
_CUBIC = 0.044715

# numpy has no erf. The standard library's erfc is accurate to the last bit or two; a Python call
# for each element is acceptable in the reference. 1 + erf(u) would lose every digit of Phi(u) for
# u below -6, erfc(-u) keeps them.
_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def gelu(u: Array, tanh: bool) -> Array:
    """gelu(u), element by element."""
    if tanh:
        return 0.5 * u * (1 + np.tanh(_SQRT_2_OVER_PI * (u + _CUBIC * u * u * u)))
    return u * _phi(u)


def gelu_derivative(u: Array, tanh: bool) -> Array:
    """d gelu(u) / du, element by element."""
    if tanh:
        t = np.tanh(_SQRT_2_OVER_PI * (u + _CUBIC * u * u * u))
        inner = _SQRT_2_OVER_PI * (1 + 3 * _CUBIC * u * u)
        return 0.5 * (1 + t) + 0.5 * u * (1 - t * t) * inner
    return _phi(u) + u * np.exp(-0.5 * u * u) / math.sqrt(2 * math.pi)


def _phi(u: Array) -> Array:
    return (0.5 * _erfc(-math.sqrt(0.5) * u)).astype(u.dtype)


@reference_kernel
def bias_gelu_forward(y: Out, x: In, b: In | None, tanh: bool) -> None:
    y[...] = gelu(x if b is None else x + b, tanh)


@reference_kernel
def bias_gelu_backward(dx: Out, db: Acc | None, dy: In, x: In, b: In | None, tanh: bool) -> None:
    du = dy * gelu_derivative(x if b is None else x + b, tanh)
    dx[...] = du
    if db is not None:
        db += du.sum(axis=tuple(range(x.ndim - 1)))


@op(x="... C", b="C?")
def forward(
    x: Array, b: Array | None = None, approximate: Literal["none", "tanh"] = "tanh"
) -> tuple[Array, Saved]:
    """x (..., C), b (C,) or None -> y of x's shape, saved.

    approximate: "none" for Phi itself, "tanh" for the approximation; the default is not PyTorch's
    but GPT-2's. ValueError for a shape or another word for approximate.
    """
    kernel = kernels(x).bias_gelu_forward
    tanh = check.gelu_is_tanh("bias_gelu.forward", approximate)
    y = empty(x.shape, x)
    kernel(y, x, b, tanh)
    return y, (x, b, tanh)


@op(saved={"x": "... C"}, dy="... C", db="C?")
def backward(dy: Array, saved: Saved, db: Array | None = None) -> Array:
    """dy (..., C) -> dx of the same shape; adds into db (C,), None when frozen."""
    x, b, tanh = saved
    dx = empty(x.shape, x)
    kernels(x).bias_gelu_backward(dx, db, dy, x, b, tanh)
    return dx
