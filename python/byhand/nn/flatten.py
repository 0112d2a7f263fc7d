"""Several axes as one."""

from __future__ import annotations

from byhand import backend
from byhand.backend import Array
from byhand.nn.activation import axis_of, require_axis
from byhand.nn.module import Module
from byhand.ops import check


class Flatten(Module):
    """The axes from ``start_dim`` to ``end_dim`` as one: x (B, ...) -> y (B, N) by default.

    y has the numbers of x in the same order, and shares x's memory. Raises ValueError when x does
    not have these axes or start_dim comes after end_dim, TypeError unless both are integers.
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1):
        self.start_dim = require_axis("Flatten", "start_dim", start_dim)
        self.end_dim = require_axis("Flatten", "end_dim", end_dim)

    def forward(self, x: Array) -> Array:
        start = axis_of("Flatten", "start_dim", self.start_dim, x)
        end = axis_of("Flatten", "end_dim", self.end_dim, x)
        if start > end:
            raise ValueError(
                f"Flatten: start_dim = {self.start_dim} comes after end_dim = {self.end_dim} in x "
                f"of shape {x.shape}"
            )
        size = 1
        for n in x.shape[start : end + 1]:
            size *= n
        y = x.reshape(*x.shape[:start], size, *x.shape[end + 1 :])
        self.push((x.shape, y.shape))
        return y

    def backward(self, dy: Array) -> Array:
        of_x, of_y = self.pop()
        if not backend.is_array(dy):
            raise check.not_an_array("Flatten", "dy", dy)
        if tuple(dy.shape) != of_y:
            raise check.wrong_shape("Flatten", "dy", of_y, dy)
        return dy.reshape(of_x)
