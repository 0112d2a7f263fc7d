"""Modules that the tests build from layers: blocks of models other than GPT, and custom layers."""

from __future__ import annotations

import math

import numpy as np

from byhand import nn
from byhand.nn import init
from byhand.ops import linear


class EncoderBlock(nn.Module):
    """Post-norm, as in BERT: norm1(x + attention(x)), then norm2(x + ffn(x))."""

    def __init__(self, dim, heads, dropout=0.0):
        self.attention = nn.MultiHeadAttention(
            dim, heads, dropout=dropout, residual_dropout=dropout
        )
        self.norm1 = nn.LayerNorm(dim)
        self.ffn = nn.FeedForward(dim, 3 * dim, "gelu", dropout=dropout)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x, lengths=None):
        x = self.norm1(self.attention(x, lengths=lengths, add=x))
        return self.norm2(self.ffn(x, add=x))

    def backward(self, dy):
        d = self.norm2.backward(dy)
        d = self.norm1.backward(d + self.ffn.backward(d))
        return d + self.attention.backward(d)


class DecoderBlock(nn.Module):
    """Pre-norm, as in T5: causal self-attention, cross-attention to a memory, feed-forward."""

    def __init__(self, dim, heads, kv_heads=None):
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))
        self.attention = nn.MultiHeadAttention(dim, heads, kv_heads, causal=True)
        self.cross = nn.MultiHeadAttention(dim, heads, kv_heads)
        self.ffn = nn.FeedForward(dim, 2 * dim, "gelu_new")

    def forward(self, x, memory, lengths=None):
        x = self.attention(self.norm1(x), add=x, again=self.norm1.again)
        x = self.cross(self.norm2(x), memory, lengths=lengths, add=x)
        return self.ffn(self.norm3(x), add=x, again=self.norm3.again)

    def backward(self, dy):
        d = self.norm3.backward(self.ffn.backward(dy), add=dy)
        dx, dmemory = self.cross.backward(d)
        d = self.norm2.backward(dx, add=d)
        return self.norm1.backward(self.attention.backward(d), add=d), dmemory


class LoRA(nn.Module):
    """y = base(x) + scale * B (A x), the base frozen (Hu et al., 2021, equation 3)."""

    def __init__(self, base, r=2, scale=0.5):
        outputs, inputs = base.weight.shape
        base.freeze()
        self.base, self.scale = base, scale
        self.a = nn.Parameter((r, inputs), init.Normal(1 / math.sqrt(inputs)))
        self.b = nn.Parameter((outputs, r), init.zeros)

    def forward(self, x, add=None, again=None):
        u, first = linear.forward(x, self.a.compute_value)
        v, second = linear.forward(u, self.b.compute_value)
        self.push((first, second))
        return self.base(x, add, again) + self.scale * v

    def backward(self, dy):
        first, second = self.pop()
        du = linear.backward(self.scale * dy, second, self.b.grad)
        return self.base.backward(dy) + linear.backward(du, first, self.a.grad)


class BatchNorm(nn.Module):
    """Over the rows of x (B, C), with running statistics (Ioffe & Szegedy, 2015)."""

    def __init__(self, dim, eps=1e-5, momentum=0.1):
        self.weight = nn.Parameter((dim,), init.ones)
        self.bias = nn.Parameter((dim,), init.zeros)
        self.running_mean = nn.Buffer((dim,), init.zeros)
        self.running_var = nn.Buffer((dim,), init.ones)
        self.eps, self.momentum = eps, momentum

    def forward(self, x):
        mean, var = self.running_mean.value, self.running_var.value
        if self.training:
            running = ((mean, x.mean(0)), (var, x.var(0)))
            (_, batch_mean), (_, batch_var) = running
            for value, new in running:
                value += self.momentum * (new - value)
            mean, var = batch_mean, batch_var
        rstd = 1 / np.sqrt(var + self.eps)
        normal = (x - mean) * rstd
        self.push((normal, rstd, self.training))
        return normal * self.weight.compute_value + self.bias.compute_value

    def backward(self, dy):
        normal, rstd, of_batch = self.pop()
        self.weight.grad += (dy * normal).sum(0)
        self.bias.grad += dy.sum(0)
        g = dy * self.weight.compute_value
        if not of_batch:
            return rstd * g
        return rstd * (g - g.mean(0) - normal * (g * normal).mean(0))
