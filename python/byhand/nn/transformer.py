"""The parts of a pre-norm transformer block (Vaswani et al., 2017; Radford et al., 2019).

Residual additions ride in the epilogue of the layer before them (``add=x``), and their duals in the
backward pass of the norm before them (``add=dy``). What a norm gives is not kept: the layer behind
it is given it again for its backward pass, computed from what the norm keeps.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from byhand import backend
from byhand.backend import Array
from byhand.nn.layers import Dropout, LayerNorm, Linear
from byhand.nn.module import Generator, Module
from byhand.ops import attention, gelu_ffn


class KeyValueCache:
    """Keys and values of the positions seen so far, for decoding one token at a time.

    One per attention layer. ``keys`` and ``values`` are (B, capacity, H, D); the first ``length``
    positions are filled.
    """

    def __init__(self, batch: int, capacity: int, heads: int, head_dim: int, like: Array):
        shape = (batch, capacity, heads, head_dim)
        self.keys = backend.zeros(shape, like)
        self.values = backend.zeros(shape, like)
        self.length = 0

    def extend(self, k: Array, v: Array) -> tuple[Array, Array]:
        """Appends k, v (B, T, H, D) and returns views of all keys and values so far."""
        start, stop = self.length, self.length + k.shape[1]
        self.keys[:, start:stop] = k
        self.values[:, start:stop] = v
        self.length = stop
        return self.keys[:, :stop], self.values[:, :stop]


class CausalSelfAttention(Module):
    """Multi-head attention in which a position sees itself and what came before.

    Shapes: x, y, add (B, T, C). One matrix gives queries, keys and values for all heads; they are
    read with strides out of its result, never copied apart.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        dropout: float,
        bias: bool,
        generator: Generator,
        rng: np.random.Generator,
        project_std: float,
    ):
        self.heads = heads
        self.p = dropout
        self.generator = generator
        self.qkv = Linear(dim, 3 * dim, bias, rng, std=0.02)
        self.project = Linear(dim, dim, bias, rng, std=project_std)
        self.dropout = Dropout(dropout, generator)

    def forward(self, x: Array, add: Array, cache: KeyValueCache | None = None) -> Array:
        B, T, C = x.shape
        qkv = self.qkv(x, keep_x=False).reshape(B, T, 3, self.heads, C // self.heads)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        if cache is not None:
            k, v = cache.extend(k, v)
        if self.dropout.active:
            o, saved = attention.forward(q, k, v, None, None, True, self.p, *self.generator.next())
        else:
            o, saved = attention.forward(q, k, v, causal=True)
        self.push(saved)
        o = o.reshape(B, T, C)
        if self.dropout.active:
            return self.dropout(self.project(o), add)
        self.dropout.push(None)
        return self.project(o, add)

    def backward(self, dy: Array, x: Array) -> Array:
        """x: the input of ``forward``, which is not kept."""
        B, T, C = dy.shape
        do = self.project.backward(self.dropout.backward(dy))
        dqkv = backend.empty((B, T, 3, self.heads, C // self.heads), dy)
        attention.backward(
            do.reshape(B, T, self.heads, C // self.heads),
            self.pop(),
            out=(dqkv[:, :, 0], dqkv[:, :, 1], dqkv[:, :, 2]),
        )
        return self.qkv.backward(dqkv.reshape(B, T, 3 * C), x)


class FeedForward(Module):
    """down(gelu(up(x))): four times wider inside, GELU in its tanh form as in GPT-2.

    Shapes: x, y, add (..., C). Hendrycks & Gimpel, 2016.
    """

    def __init__(
        self,
        dim: int,
        dropout: float,
        bias: bool,
        generator: Generator,
        rng: np.random.Generator,
        down_std: float,
        approximate: Literal["none", "tanh"] = "tanh",
    ):
        self.approximate = approximate
        self.up = Linear(dim, 4 * dim, bias, rng, std=0.02)
        self.down = Linear(4 * dim, dim, bias, rng, std=down_std)
        self.dropout = Dropout(dropout, generator)

    def forward(self, x: Array, add: Array) -> Array:
        up, down = self.up, self.down
        y, saved = gelu_ffn.forward(
            x,
            up.weight.operand,
            up.bias and up.bias.operand,
            down.weight.operand,
            down.bias and down.bias.operand,
            None if self.dropout.active else add,
            self.approximate,
            self._bf16,
        )
        self.push(saved[1:])
        if self.dropout.active:
            return self.dropout(y, add)
        self.dropout.push(None)
        return y

    def backward(self, dy: Array, x: Array) -> Array:
        """x: the input of ``forward``, which is not kept."""
        up, down = self.up, self.down
        return gelu_ffn.backward(
            self.dropout.backward(dy),
            (x, *self.pop()),
            up.weight.grad,
            up.bias and up.bias.grad,
            down.weight.grad,
            down.bias and down.bias.grad,
        )


class Block(Module):
    """x + attention(norm1(x)), then x + ffn(norm2(x)). Shapes: (B, T, C) in and out."""

    def __init__(
        self,
        dim: int,
        heads: int,
        dropout: float,
        bias: bool,
        generator: Generator,
        rng: np.random.Generator,
        residual_std: float,
    ):
        self.norm1 = LayerNorm(dim, bias)
        self.attention = CausalSelfAttention(
            dim, heads, dropout, bias, generator, rng, residual_std
        )
        self.norm2 = LayerNorm(dim, bias)
        self.ffn = FeedForward(dim, dropout, bias, generator, rng, residual_std)

    def forward(self, x: Array, cache: KeyValueCache | None = None) -> Array:
        x = self.attention(self.norm1(x), add=x, cache=cache)
        return self.ffn(self.norm2(x), add=x)

    def backward(self, dy: Array) -> Array:
        d = self.norm2.backward(self.ffn.backward(dy, self.norm2.again()), add=dy)
        return self.norm1.backward(self.attention.backward(d, self.norm1.again()), add=d)
