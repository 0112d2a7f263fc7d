"""The embedding table."""

from __future__ import annotations

from byhand.backend import Array
from byhand.nn import init
from byhand.nn.init import Init
from byhand.nn.module import Module
from byhand.nn.parameter import Parameter
from byhand.ops import embedding


class Embedding(Module):
    """Rows of a table: y = weight[ids] (+ add).

    Shapes: ids (...) int64, weight (num, dim), y and add (..., dim). ``backward`` adds the gradient
    to the rows that were read and returns nothing: ids have no gradient. Rows start as N(0, 1), as
    PyTorch's do, unless ``weight_init`` is given.

    Raises IndexError naming the position of an id outside 0..num-1 (on the CPU).
    """

    def __init__(self, num: int, dim: int, *, weight_init: Init | None = None):
        self.weight = Parameter((num, dim), weight_init or init.Normal(1.0))

    def forward(self, ids: Array, add: Array | None = None) -> Array:
        y, saved = embedding.forward(ids, self.weight.compute_value, add)
        self.push(saved)
        return y

    def backward(self, dy: Array) -> None:
        embedding.backward(dy, self.pop(), self.weight.grad)
