"""Activation functions."""

from __future__ import annotations

from typing import Literal

from byhand.backend import Array
from byhand.nn.module import Module
from byhand.ops import bias_gelu, check


class GELU(Module):
    """y = x Φ(x), or with ``approximate="tanh"`` its tanh approximation (Hendrycks & Gimpel, 2016).

    Shapes: x, y (...). Raises ValueError for any other value of ``approximate``.
    """

    def __init__(self, approximate: Literal["none", "tanh"] = "none"):
        if approximate not in ("none", "tanh"):
            raise check.wrong_value("GELU", "approximate", "'none' or 'tanh'", approximate)
        self.approximate: Literal["none", "tanh"] = approximate

    def forward(self, x: Array) -> Array:
        y, saved = bias_gelu.forward(x, None, self.approximate)
        self.push(saved)
        return y

    def backward(self, dy: Array) -> Array:
        return bias_gelu.backward(dy, self.pop())
