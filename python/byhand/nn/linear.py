"""The linear layer."""

from __future__ import annotations

import math
from typing import Any

from byhand.backend import Array
from byhand.nn import init, mode
from byhand.nn.init import Init
from byhand.nn.module import Module
from byhand.nn.parameter import Parameter
from byhand.nn.protocol import Again, input_error, require_sizes, taken_again
from byhand.ops import linear, packed_linear


class Linear(Module):
    """y = x Wᵀ + b (+ add).

    Shapes: x (..., in_features), weight (out_features, in_features), bias (out_features), y and
    add (..., out_features). Weight and bias start uniform over ±1/sqrt(in_features), as PyTorch's
    do, unless ``weight_init`` or ``bias_init`` is given.

    Raises ValueError naming the first argument whose shape does not fit.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        weight_init: Init | None = None,
        bias_init: Init | None = None,
    ):
        require_sizes("Linear", in_features=in_features, out_features=out_features)
        default = init.fan_in_uniform(in_features)
        weight_init = default if weight_init is None else weight_init
        self.weight = Parameter((out_features, in_features), weight_init)
        bias_init = default if bias_init is None else bias_init
        self.bias = Parameter((out_features,), bias_init) if bias else None

    def forward(self, x: Array, add: Array | None = None, again: Again = None) -> Array:
        weight, bias = self.weight.compute_value, self.bias
        packed = mode.packed(self.weight)
        try:
            if packed is not None:
                return packed_linear.forward(x, packed, bias and bias.compute_value, add)
            y, saved = linear.forward(x, weight, bias and bias.compute_value, add, self._bf16)
        except (TypeError, ValueError) as error:
            raise input_error(error, "Linear", "x", x, weight.shape[1], weight) from None
        self.push(saved if again is None else (again, *saved[1:]))
        return y

    def flops(self, x: tuple[int, ...], *shapes: Any) -> tuple[int, int]:
        product = 2 * math.prod(x[:-1]) * self.weight.size
        return product, product * (1 + self.weight.trainable)

    def _input_shape(self, batch: int) -> tuple[int, ...]:
        return batch, self.weight.shape[1]

    def backward(self, dy: Array) -> Array:
        """The gradient of x; that of ``add`` is dy."""
        saved = taken_again(self.pop())
        return linear.backward(dy, saved, self.weight.grad, self.bias and self.bias.grad)
