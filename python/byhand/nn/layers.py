"""Linear, Embedding, LayerNorm, RMSNorm and Dropout: one op and its parameters each."""

from __future__ import annotations

import numpy as np

from byhand.backend import Array
from byhand.nn.module import Generator, Module, Param, normal, scaled_std
from byhand.ops import dropout, embedding, layernorm, linear, rmsnorm


class Linear(Module):
    """y = x Wᵀ + b (+ add).

    Shapes: x (..., in_dim), weight (out_dim, in_dim), bias (out_dim), y and add (..., out_dim).
    Weights start as N(0, std²), by default std = 1/sqrt(in_dim); biases at zero.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        bias: bool = True,
        rng: np.random.Generator | None = None,
        std: float | None = None,
    ):
        rng = rng or np.random.default_rng(0)
        std = scaled_std(in_dim) if std is None else std
        self.weight = Param(normal(rng, (out_dim, in_dim), std))
        self.bias = Param(np.zeros(out_dim, np.float32)) if bias else None

    def forward(self, x: Array, add: Array | None = None, keep_x: bool = True) -> Array:
        """With ``keep_x`` off, ``backward`` has to be given x again."""
        y, saved = linear.forward(
            x, self.weight.operand, self.bias and self.bias.operand, add, self._bf16
        )
        self.push(saved if keep_x else saved[1:])
        return y

    def backward(self, dy: Array, x: Array | None = None) -> Array:
        saved = self.pop() if x is None else (x, *self.pop())
        return linear.backward(dy, saved, self.weight.grad, self.bias and self.bias.grad)


class Embedding(Module):
    """Rows of a table: y = weight[ids] (+ add).

    Shapes: ids (...) int64, weight (rows, dim), y and add (..., dim). ``backward`` adds the
    gradient to the rows that were read and returns nothing: ids have no gradient.
    """

    def __init__(
        self, rows: int, dim: int, rng: np.random.Generator | None = None, std: float = 0.02
    ):
        self.weight = Param(normal(rng or np.random.default_rng(0), (rows, dim), std))

    def forward(self, ids: Array, add: Array | None = None) -> Array:
        y, saved = embedding.forward(ids, self.weight.operand, add)
        self.push(saved)
        return y

    def backward(self, dy: Array) -> None:
        embedding.backward(dy, self.pop(), self.weight.grad)


class LayerNorm(Module):
    """y = weight * (x - mean) / sqrt(variance + eps) + bias over the last axis.

    Ba, Kiros & Hinton, 2016. Shapes: x, y (..., dim), weight and bias (dim).
    ``backward(dy, add)`` returns the gradient of x plus ``add``: the residual path's gradient.
    ``forward_add(x, add)`` normalises the residual sum s = x + add in the same pass and returns y
    and s; its backward takes the gradient of s as ``add``, and returns that of x and of add alike.
    ``again()``, before ``backward``, gives y once more, bit for bit: computing it is cheaper than
    keeping it.
    """

    def __init__(self, dim: int, bias: bool = True, eps: float = 1e-5):
        self.weight = Param(np.ones(dim, np.float32))
        self.bias = Param(np.zeros(dim, np.float32)) if bias else None
        self.eps = eps

    def forward(self, x: Array) -> Array:
        y, saved = layernorm.forward(
            x, self.weight.operand, self.bias and self.bias.operand, self.eps
        )
        self.push(saved)
        return y

    def forward_add(self, x: Array, add: Array) -> tuple[Array, Array]:
        y, s, saved = layernorm.forward_add(
            x, add, self.weight.operand, self.bias and self.bias.operand, self.eps
        )
        self.push(saved)
        return y, s

    def again(self) -> Array:
        s, weight, *_ = self.peek()
        return layernorm.forward(s, weight, self.bias and self.bias.operand, self.eps)[0]

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
        self.weight = Param(np.ones(dim, np.float32))
        self.eps = eps

    def forward(self, x: Array) -> Array:
        y, saved = rmsnorm.forward(x, self.weight.operand, self.eps)
        self.push(saved)
        return y

    def forward_add(self, x: Array, add: Array) -> tuple[Array, Array]:
        y, s, saved = rmsnorm.forward_add(x, add, self.weight.operand, self.eps)
        self.push(saved)
        return y, s

    def again(self) -> Array:
        s, weight, *_ = self.peek()
        return rmsnorm.forward(s, weight, self.eps)[0]

    def backward(self, dy: Array, add: Array | None = None) -> Array:
        return rmsnorm.backward(dy, self.pop(), self.weight.grad, add)


class Dropout(Module):
    """Zeroes each element with probability ``p`` in training and scales the rest by 1/(1-p).

    Srivastava et al., 2014. Outside training, or with p = 0, the input itself comes back.
    """

    def __init__(self, p: float, generator: Generator):
        self.p = p
        self.generator = generator

    @property
    def active(self) -> bool:
        return self.training and self.p > 0

    def forward(self, x: Array, add: Array | None = None) -> Array:
        if not self.active:
            self.push(None)
            return x if add is None else x + add
        y, saved = dropout.forward(x, self.p, *self.generator.next(), add)
        self.push(saved)
        return y

    def backward(self, dy: Array) -> Array:
        saved = self.pop()
        return dy if saved is None else dropout.backward(dy, saved)
