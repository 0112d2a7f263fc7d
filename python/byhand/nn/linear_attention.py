"""Multi-head attention whose cost grows linearly with the length (Katharopoulos et al., 2020)."""

from __future__ import annotations

from typing import Any

from byhand import backend
from byhand.backend import Array
from byhand.nn.cache import KeyValueCache
from byhand.nn.dropout import Dropout
from byhand.nn.init import Init
from byhand.nn.linear import Linear
from byhand.nn.module import Module
from byhand.nn.protocol import Again, own_copy, require_like, require_sizes
from byhand.ops import check, linear_attention


class LinearAttention(Module):
    """Self-attention with the weights phi(q) phi(k) / sum over keys, phi(x) = elu(x) + 1, in place
    of the softmax of q k (Katharopoulos et al., "Transformers are RNNs", 2020, equations 6 and 7).

    Shapes: x, y, add (B, T, dim). One linear layer ``qkv`` computes the queries, keys and values of
    all heads, in this order, as in `MultiHeadAttention`. There are no attention probabilities that
    dropout could act on.

    Args:
        causal: a position attends to itself and to earlier positions only.
        residual_dropout: the probability of zeroing an element of the result, before ``add``.

    Call options: ``lengths`` (B,) int64, how many keys each batch entry has; ``cache`` for
    decoding, with causal attention. ``sequences`` must be None.

    Raises ValueError unless num_heads divides dim.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        causal: bool = False,
        bias: bool = True,
        *,
        residual_dropout: float = 0.0,
        weight_init: Init | None = None,
        project_init: Init | None = None,
        bias_init: Init | None = None,
    ):
        require_sizes("LinearAttention", dim=dim, num_heads=num_heads)
        if num_heads < 1 or dim % num_heads:
            raise ValueError(
                f"LinearAttention: dim must be a multiple of num_heads, got {dim} and {num_heads}"
            )
        self.dim, self.num_heads, self.head_dim = dim, num_heads, dim // num_heads
        self.causal = causal
        self.qkv = Linear(dim, 3 * dim, bias, weight_init=weight_init, bias_init=bias_init)
        self.project = Linear(dim, dim, bias, weight_init=project_init, bias_init=bias_init)
        self.dropout = Dropout(residual_dropout)

    @property
    def num_kv_heads(self) -> int:
        """The heads of keys and values: as many as of queries."""
        return self.num_heads

    def forward(
        self,
        x: Array,
        lengths: Array | None = None,
        add: Array | None = None,
        again: Again = None,
        cache: KeyValueCache | None = None,
        sequences: Array | None = None,
    ) -> Array:
        if sequences is not None:
            raise ValueError("LinearAttention: several sequences cannot be packed in a row")
        if not backend.is_array(x):
            raise check.not_an_array("LinearAttention", "x", x)
        if x.ndim != 3 or x.shape[2] != self.dim:
            raise check.wrong_shape("LinearAttention", "x", f"(B, T, {self.dim})", x)
        if type(self.qkv) is Linear:
            require_like("LinearAttention", "x", x, self.qkv.weight.compute_value)
        if cache is not None and not self.causal:
            raise ValueError("LinearAttention: a cache is for causal attention")
        B, T, _ = x.shape
        H, D = self.num_heads, self.head_dim
        qkv = self.qkv(x, again=again).reshape(B, T, 3 * H, D)
        q, k, v = qkv[:, :, :H], qkv[:, :, H : 2 * H], qkv[:, :, 2 * H :]
        if cache is not None and cache.length > 0:
            o = self._continued(q, k, v, cache)
        else:
            if cache is not None:
                k, v = cache.extend(k, v)
            lengths = own_copy(lengths) if self._saving else lengths
            o, saved = linear_attention.forward(q, k, v, self.causal, lengths=lengths)
            self.push((saved, self.dropout.active))
        dropped = self.dropout.active
        y = self.project(o.reshape(B, T, H * D), None if dropped else add)
        return self.dropout(y, add) if dropped else y

    def _continued(self, q: Array, k: Array, v: Array, cache: KeyValueCache) -> Array:
        """The result for positions after those in the cache: each sees all keys up to its own."""
        o = backend.empty(q.shape, q)
        for t in range(q.shape[1]):
            now = slice(t, t + 1)
            keys, values = cache.extend(k[:, now], v[:, now])
            lengths = backend.to_device_of(cache.lengths, keys) if cache.ragged else None
            o[:, now] = linear_attention.forward(q[:, now], keys, values, lengths=lengths)[0]
        return o

    def flops(self, x: tuple[int, ...], *shapes: Any) -> tuple[int, int]:
        """The sums of phi(k) v and their products with phi(q)."""
        B, T, C = x
        products = 4 * B * T * C * self.head_dim
        return products, 2 * products

    def backward(self, dy: Array) -> Array:
        saved, dropped = self.pop()
        B, T, _ = dy.shape
        H, D = self.num_heads, self.head_dim
        do = self.project.backward(self.dropout.backward(dy) if dropped else dy)
        dqkv = backend.empty((B, T, 3 * H, D), dy)
        parts = dqkv[:, :, :H], dqkv[:, :, H : 2 * H], dqkv[:, :, 2 * H :]
        linear_attention.backward(do.reshape(B, T, H, D), saved, parts)
        return self.qkv.backward(dqkv.reshape(B, T, -1))
