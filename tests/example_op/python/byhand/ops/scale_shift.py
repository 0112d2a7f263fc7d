"""A linear function of every element.

    y = scale x + shift,      dx = scale dy

Saved: scale.
"""

from __future__ import annotations

from byhand.backend import Array, In, Out, empty, kernels, reference_kernel
from byhand.ops.check import Saved
from byhand.ops.declare import op


@reference_kernel
def scale_shift_forward(y: Out, x: In, scale: float, shift: float) -> None:
    y[...] = scale * x + shift


@reference_kernel
def scale_shift_backward(dx: Out, dy: In, scale: float) -> None:
    dx[...] = scale * dy


@op(x="...")
def forward(x: Array, scale: float, shift: float = 0.0) -> tuple[Array, Saved]:
    """x (...) -> y of the same shape, saved."""
    y = empty(x.shape, x)
    kernels(x).scale_shift_forward(y, x, scale, shift)
    return y, (x.shape, scale)


@op(saved={"shape": "(...)"}, dy="...")
def backward(dy: Array, saved: Saved) -> Array:
    """dy (...) -> dx of the same shape."""
    shape, scale = saved
    dx = empty(shape, dy)
    kernels(dy).scale_shift_backward(dx, dy, scale)
    return dx
