"""The embedding table."""

from __future__ import annotations

import numpy as np

from byhand.backend import Array
from byhand.nn import init
from byhand.nn.init import Init
from byhand.nn.module import Module
from byhand.nn.parameter import Parameter
from byhand.nn.protocol import contiguous, own_copy, require_sizes
from byhand.ops import check, embedding


class Embedding(Module):
    """Rows of a table: y = scale * weight[ids] (+ add).

    Shapes: ids (...) int64, weight (num, dim), y and add (..., dim). ``backward`` adds the gradient
    to the rows that were read and returns nothing: ids have no gradient. Rows start as N(0, 1), as
    PyTorch's do, unless ``weight_init`` is given.

    ``scale`` is sqrt(dim) where the same table is also the last layer and its numbers are small for
    that (Vaswani et al., 2017, section 3.4): without it, positions that are added would be larger.

    Numpy ids are copied for the backward pass, so the array may be changed after the call. Raises
    IndexError naming the position of an id outside 0..num-1 (on the CPU), TypeError unless they are
    int64.
    """

    _input_dtype = np.int64

    def __init__(self, num: int, dim: int, *, scale: float = 1.0, weight_init: Init | None = None):
        require_sizes("Embedding", num=num, dim=dim)
        check.number("Embedding", "scale", scale, np.isfinite, "a finite number")
        self.scale = scale
        weight_init = init.Normal(1.0) if weight_init is None else weight_init
        self.weight = Parameter((num, dim), weight_init)

    def forward(self, ids: Array, add: Array | None = None) -> Array:
        y, (ids, *rest) = embedding.forward(
            contiguous(ids), self.weight.compute_value, add, self.scale
        )
        if self._saving:
            self.push((own_copy(ids), *rest))
        return y

    def backward(self, dy: Array) -> None:
        embedding.backward(dy, self.pop(), self.weight.grad)
