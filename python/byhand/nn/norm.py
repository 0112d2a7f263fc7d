"""Layer normalisation and root mean square normalisation."""

from __future__ import annotations

from byhand.backend import Array
from byhand.nn import init
from byhand.nn.module import Module
from byhand.nn.parameter import Parameter
from byhand.nn.protocol import input_error, require_sizes
from byhand.ops import check, layernorm, rmsnorm


class LayerNorm(Module):
    """y = weight * (x - mean) / sqrt(variance + eps) + bias over the last axis.

    Ba, Kiros & Hinton, 2016. Shapes: x, y (..., dim), weight and bias (dim).
    ``backward(dy, add)`` returns the gradient of x plus ``add``: the residual path's gradient.
    ``forward_add(x, add)`` normalises the residual sum s = x + add in the same pass and returns y
    and s; its backward takes the gradient of s as ``add`` and returns one gradient, which is that
    of x and also that of ``add``. ``again()``, called before ``backward``, recomputes y with the
    same bits, which is cheaper than keeping y.

    ValueError for an eps that is not a number of at least 0.
    """

    def __init__(self, dim: int, eps: float = 1e-5, bias: bool = True):
        require_sizes("LayerNorm", dim=dim)
        check.eps("LayerNorm", eps)
        self.weight = Parameter((dim,), init.ones)
        self.bias = Parameter((dim,), init.zeros) if bias else None
        self.eps = eps

    def forward(self, x: Array) -> Array:
        weight = self.weight.compute_value
        try:
            y, saved = layernorm.forward(x, weight, self.bias and self.bias.compute_value, self.eps)
        except (TypeError, ValueError) as error:
            raise input_error(error, "LayerNorm", "x", x, weight.shape[0], weight) from None
        self.push(saved)
        return y

    def forward_add(self, x: Array, add: Array) -> tuple[Array, Array]:
        weight = self.weight.compute_value
        try:
            y, s, saved = layernorm.forward_add(
                x, add, weight, self.bias and self.bias.compute_value, self.eps
            )
        except (TypeError, ValueError) as error:
            raise input_error(error, "LayerNorm", "x", x, weight.shape[0], weight) from None
        self.push(saved)
        return y, s

    def again(self) -> Array:
        s, weight, *_ = self.peek()
        return layernorm.forward(s, weight, self.bias and self.bias.compute_value, self.eps)[0]

    def backward(self, dy: Array, add: Array | None = None) -> Array:
        return layernorm.backward(
            dy, self.pop(), self.weight.grad, self.bias and self.bias.grad, add
        )


class RMSNorm(Module):
    """y = weight * x / sqrt(mean(x²) + eps) over the last axis.

    Zhang & Sennrich, 2019. Shapes: x, y (..., dim), weight (dim). ``forward_add``, ``again`` and
    ``backward`` are LayerNorm's.
    """

    def __init__(self, dim: int, eps: float = 1e-5):
        require_sizes("RMSNorm", dim=dim)
        check.eps("RMSNorm", eps)
        self.weight = Parameter((dim,), init.ones)
        self.eps = eps

    def forward(self, x: Array) -> Array:
        weight = self.weight.compute_value
        try:
            y, saved = rmsnorm.forward(x, weight, self.eps)
        except (TypeError, ValueError) as error:
            raise input_error(error, "RMSNorm", "x", x, weight.shape[0], weight) from None
        self.push(saved)
        return y

    def forward_add(self, x: Array, add: Array) -> tuple[Array, Array]:
        weight = self.weight.compute_value
        try:
            y, s, saved = rmsnorm.forward_add(x, add, weight, self.eps)
        except (TypeError, ValueError) as error:
            raise input_error(error, "RMSNorm", "x", x, weight.shape[0], weight) from None
        self.push(saved)
        return y, s

    def again(self) -> Array:
        s, weight, *_ = self.peek()
        return rmsnorm.forward(s, weight, self.eps)[0]

    def backward(self, dy: Array, add: Array | None = None) -> Array:
        return rmsnorm.backward(dy, self.pop(), self.weight.grad, add)
