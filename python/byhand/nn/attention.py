"""Multi-head attention (Vaswani et al., 2017, section 3.2)."""

from __future__ import annotations

from typing import Any

from byhand import backend
from byhand.backend import Array
from byhand.nn.cache import KeyValueCache
from byhand.nn.dropout import Dropout
from byhand.nn.init import Init
from byhand.nn.linear import Linear
from byhand.nn.module import Module
from byhand.nn.norm import RMSNorm
from byhand.nn.parameter import Buffer
from byhand.nn.patterns import alibi_slopes
from byhand.nn.positions import RotaryPositions
from byhand.nn.protocol import (
    Again,
    copied,
    own_copy,
    require_like,
    require_sizes,
    require_whole_number,
)
from byhand.ops import attention, check, linear


def _check_positions(positions: Any, head_dim: int) -> None:
    if positions is None:
        return
    if not isinstance(positions, RotaryPositions):
        raise TypeError(
            f"MultiHeadAttention: positions must be a RotaryPositions or None, got {positions!r}"
        )
    if positions.head_dim != head_dim:
        raise ValueError(
            f"MultiHeadAttention: positions are for heads of {positions.head_dim}, and the heads "
            f"have {head_dim}"
        )


def _slopes(rng: Any, shape: tuple[int, ...]) -> Any:
    return alibi_slopes(*shape)


class MultiHeadAttention(Module):
    """Self-attention over the positions of x, or cross-attention from x to ``memory``.

    Shapes: x, y, add (B, T, dim), memory (B, S, dim). One linear layer ``qkv`` computes the
    queries, keys and values of all heads, in this order; attention reads them from its result
    through strides, without copies. With ``memory`` the query rows of its weight are applied to x
    and the other rows to the memory.

    Args:
        num_kv_heads: heads of keys and values, each shared by num_heads / num_kv_heads queries
            (Ainslie et al., 2023); None: as many as queries.
        causal: a position attends to itself and to earlier positions only.
        bias: whether queries, keys and values have a bias; ``project_bias`` is that of the last
            layer, None: the same.
        dropout: the probability of zeroing an attention probability.
        positions: a `RotaryPositions`, which rotates queries and keys; it may be shared by several
            layers. A cache holds rotated keys.
        head_dim: the width of a head; None: dim / num_heads.
        qk_norm: the eps of an `RMSNorm` of each head's queries and keys, before they are rotated
            (Henry et al., 2020, "Query-key normalization"; Qwen3); None: there is none.
        window: a position attends to those less than this far away (Beltagy et al., 2020).
        alibi: scores fall with the distance of the key, by `alibi_slopes` (Press et al., 2022).
        softcap: scores s become softcap tanh(s / softcap) (Gemma 2, 2024); None: they do not.
        residual_dropout: the probability of zeroing an element of the result, before ``add``.

    Call options: ``lengths`` (B,) int64, how many keys each batch entry has; ``mask``, bool,
    broadcastable to (B, H, T, S), True where a key may be attended to; ``cache`` for decoding,
    without a memory; ``score_bias`` (B or 1, H or 1, T, S), added to the scores (Raffel et al.,
    "T5", 2020); ``sequences`` (B, T) int64, the number of each position's sequence where several
    are packed in a row, never decreasing: a position attends to its own only.
    ``return_weights=True`` returns (y, weights): the attention probabilities (B, H, T, S) before
    dropout, a numpy array to be read.
    ``backward(dy)`` returns the gradient of x, with a memory (dx, dmemory), and with a score_bias
    its gradient after these.

    Raises ValueError unless num_heads divides dim or head_dim is given, num_kv_heads divides
    num_heads and 0 <= dropout < 1.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        causal: bool = False,
        bias: bool = True,
        dropout: float = 0.0,
        positions: RotaryPositions | None = None,
        *,
        head_dim: int | None = None,
        qk_norm: float | None = None,
        project_bias: bool | None = None,
        window: int | None = None,
        alibi: bool = False,
        softcap: float | None = None,
        residual_dropout: float = 0.0,
        weight_init: Init | None = None,
        project_init: Init | None = None,
        bias_init: Init | None = None,
    ):
        check.probability("MultiHeadAttention", "dropout", dropout)
        kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        require_sizes("MultiHeadAttention", dim=dim, num_heads=num_heads, num_kv_heads=kv_heads)
        if num_heads < 1 or (head_dim is None and dim % num_heads):
            raise ValueError(
                f"MultiHeadAttention: dim must be a multiple of num_heads, got {dim} and "
                f"{num_heads}"
            )
        if kv_heads < 1 or num_heads % kv_heads:
            raise ValueError(
                f"MultiHeadAttention: num_heads must be a multiple of num_kv_heads, got "
                f"{num_heads} and {kv_heads}"
            )
        head_dim = dim // num_heads if head_dim is None else head_dim
        require_sizes("MultiHeadAttention", head_dim=head_dim)
        _check_positions(positions, head_dim)
        if window is not None and require_whole_number("MultiHeadAttention", "window", window) < 1:
            raise check.wrong_value("MultiHeadAttention", "window", "at least 1", window)
        self.dim, self.head_dim = dim, head_dim
        self.num_heads, self.num_kv_heads = num_heads, kv_heads
        if softcap is not None:
            check.positive("MultiHeadAttention", "softcap", softcap)
        self.causal, self.window, self.softcap = causal, window, softcap
        self.slopes = Buffer((num_heads,), _slopes, persistent=False) if alibi else None
        self.p = dropout
        width = (num_heads + 2 * kv_heads) * head_dim
        self.qkv = Linear(dim, width, bias, weight_init=weight_init, bias_init=bias_init)
        self.q_norm = None if qk_norm is None else RMSNorm(head_dim, qk_norm)
        self.k_norm = None if qk_norm is None else RMSNorm(head_dim, qk_norm)
        self.positions = positions
        project_bias = bias if project_bias is None else project_bias
        self.project = Linear(
            num_heads * head_dim,
            dim,
            project_bias,
            weight_init=project_init,
            bias_init=bias_init,
        )
        self.dropout = Dropout(residual_dropout)

    def forward(
        self,
        x: Array,
        memory: Array | None = None,
        lengths: Array | None = None,
        mask: Array | None = None,
        add: Array | None = None,
        again: Again = None,
        cache: KeyValueCache | None = None,
        score_bias: Array | None = None,
        sequences: Array | None = None,
        return_weights: bool = False,
    ) -> Any:
        self._check_inputs(x, memory)
        if sequences is not None and (memory is not None or cache is not None):
            raise ValueError(
                "MultiHeadAttention: sequences are for self-attention without a cache, not for a "
                f"{'memory' if cache is None else 'cache'}"
            )
        if memory is not None and self.slopes is not None:
            raise ValueError("MultiHeadAttention: alibi is for self-attention, not for a memory")
        if memory is not None and cache is not None:
            raise ValueError("MultiHeadAttention: a cache is for self-attention, not for a memory")
        if memory is not None and self.positions is not None:
            raise ValueError(
                "MultiHeadAttention: positions are for self-attention, not for a memory"
            )
        B, T, _ = x.shape
        H, G, D = self.num_heads, self.num_kv_heads, self.head_dim
        if memory is None:
            qkv = self.qkv(x, again=again).reshape(B, T, H + 2 * G, D)
            q, k, v = qkv[:, :, :H], qkv[:, :, H : H + G], qkv[:, :, H + G :]
        else:
            q, kv = self._from_both(x, memory)
            k, v = kv[:, :, :G], kv[:, :, G:]
        q, k = self._placed(q, k, qkv if memory is None else None, cache)
        window = self.window
        if cache is not None:
            k, v = cache.extend(k, v)
            if cache.ragged:
                mask, lengths, window = self._seen_in(cache, T, mask, lengths)
        dropout: tuple[Any, ...] = ()
        if self.training and self.p > 0:
            dropout = (self.p, *self.generator.next())
        if self._saving:
            mask, lengths, sequences = own_copy(mask), own_copy(lengths), own_copy(sequences)
        o, saved = attention.forward(
            q,
            k,
            v,
            mask,
            None,
            self.causal,
            *dropout,
            lengths=lengths,
            window=window,
            slopes=None if self.slopes is None else self.slopes.value,
            bias=score_bias,
            softcap=self.softcap,
            sequences=sequences,
        )
        dropped = self.dropout.active
        self.push((saved, memory is not None, score_bias is not None, dropped))
        y = self.project(o.reshape(B, T, H * D), None if dropped else add)
        if dropped:
            y = self.dropout(y, add)
        return (y, attention.weights(saved)) if return_weights else y

    def flops(
        self, x: tuple[int, ...], memory: tuple[int, ...] | None = None, *shapes: Any
    ) -> tuple[int, int]:
        """The scores and the weighted sums of the values, all of them with a causal mask too
        (Chowdhery et al., 2022, appendix B); with a memory its projections too.
        """
        B, T, C = x
        S = T if memory is None else memory[1]
        rows = self.num_heads * self.head_dim
        products = 4 * B * T * S * rows
        if memory is None or type(self.qkv) is not Linear:
            return products, 2 * products
        projected = 2 * B * C * (T * rows + S * (self.qkv.weight.shape[0] - rows))
        back = projected * (1 + self.qkv.weight.trainable)
        return products + projected, 2 * products + back

    def backward(self, dy: Array) -> Any:
        saved, crossed, biased, dropped = self.pop()
        B, T, _ = dy.shape
        H, G, D = self.num_heads, self.num_kv_heads, self.head_dim
        do = self.project.backward(self.dropout.backward(dy) if dropped else dy)
        do = do.reshape(B, T, H, D)
        if not crossed:
            dqkv = backend.empty((B, T, H + 2 * G, D), dy)
            dq, dk, dv = dqkv[:, :, :H], dqkv[:, :, H : H + G], dqkv[:, :, H + G :]
            _, _, _, *dbias = attention.backward(do, saved, (dq, dk, dv), biased)
            self._backward_placed(dq, dk, dqkv)
            dx = self.qkv.backward(dqkv.reshape(B, T, -1))
            return (dx, *dbias) if biased else dx
        dq, dkv = (
            backend.empty((B, T, H, D), dy),
            backend.empty((B, saved[1].shape[1], 2 * G, D), dy),
        )
        parts = dq, dkv[:, :, :G], dkv[:, :, G:]
        _, _, _, *dbias = attention.backward(do, saved, parts, biased)
        self._backward_placed(dq, dkv[:, :, :G], None)
        return (*self._backward_both(dq, dkv), *dbias)

    def _check_inputs(self, x: Array, memory: Array | None) -> None:
        dim = self.dim
        for name, a, shape in (("x", x, f"(B, T, {dim})"), ("memory", memory, f"(B, S, {dim})")):
            if a is None and name == "memory":
                continue
            if a is None or not hasattr(a, "shape"):
                raise check.not_an_array("MultiHeadAttention", name, a)
            if a.ndim != 3 or a.shape[2] != dim:
                raise check.wrong_shape("MultiHeadAttention", name, shape, a)
            if type(self.qkv) is Linear:
                require_like("MultiHeadAttention", name, a, self.qkv.weight.compute_value)

    # --- Norms and positions of queries and keys ------------------------------------------------

    def _placed(
        self, q: Array, k: Array, qkv: Array | None, cache: KeyValueCache | None
    ) -> tuple[Array, Array]:
        """q and k, normalised and rotated. They are views of qkv, which is overwritten if no other
        layer may need it.
        """
        if self.q_norm is not None and self.k_norm is not None:
            # Norms take arrays without gaps, not parts of a packed one.
            q, k = self.q_norm(copied(q)), self.k_norm(copied(k))
        if self.positions is None or qkv is None:
            return q, k
        if self.q_norm is not None:
            return self._rotated(q, cache, q), self._rotated(k, cache, k)
        H, G = q.shape[2], k.shape[2]
        both = qkv[:, :, : H + G]
        both = self._rotated(both, cache, both if type(self.qkv) is Linear else None)
        return both[:, :, :H], both[:, :, H:]

    def _rotated(self, x: Array, cache: KeyValueCache | None, out: Array | None) -> Array:
        """x (B, T, heads, D) rotated to the positions behind those in the cache."""
        positions = self.positions
        assert positions is not None
        if cache is None or not cache.ragged:
            return positions(x, start=0 if cache is None else cache.length, out=out)
        return positions(x, cache.positions(x.shape[1]), out=out)

    def _seen_in(
        self, cache: KeyValueCache, queries: int, mask: Array | None, lengths: Array | None
    ) -> tuple[Array | None, Array | None, int | None]:
        """(mask, lengths, window) that let the queries at each row's end see their own row."""
        if mask is not None or lengths is not None:
            raise ValueError(
                "MultiHeadAttention: a cache with rows of different lengths takes no mask and no "
                "lengths"
            )
        if queries == 1 and self.window is None:
            return None, backend.to_device_of(cache.lengths, cache.keys), None
        seen = cache.visible(queries, self.window)
        return backend.to_device_of(seen, cache.keys), None, None

    def _backward_placed(self, dq: Array, dk: Array, dqkv: Array | None) -> None:
        """Replaces dq and dk, views of dqkv, by the gradients of what `_placed` was given."""
        if self.positions is not None and dqkv is not None:
            if self.q_norm is None:
                both = dqkv[:, :, : dq.shape[2] + dk.shape[2]]
                self.positions.backward(both, out=both)
            else:
                self.positions.backward(dk, out=dk)
                self.positions.backward(dq, out=dq)
        if self.q_norm is not None and self.k_norm is not None:
            dk[...] = self.k_norm.backward(copied(dk))
            dq[...] = self.q_norm.backward(copied(dq))

    # --- Cross-attention -----------------------------------------------------------------------

    def _from_both(self, x: Array, memory: Array) -> tuple[Array, Array]:
        """Queries (B, T, H, D) of x; keys and values (B, S, 2 G, D) of the memory."""
        H, G, D = self.num_heads, self.num_kv_heads, self.head_dim
        plain = type(self.qkv) is Linear
        rows = H * D
        if plain:
            w, bias = self.qkv.weight.compute_value, self.qkv.bias
            bq = bkv = None
            if bias is not None:
                bq, bkv = bias.compute_value[:rows], bias.compute_value[rows:]
            q, of_q = linear.forward(x, w[:rows], bq, None, self._bf16)
            kv, of_kv = linear.forward(memory, w[rows:], bkv, None, self._bf16)
            self.push((of_q, of_kv))
        else:  # a replacement of the layer, such as an adapter, is called once for each input
            q = self.qkv(x)[..., :rows]
            kv = self.qkv(memory)[..., rows:]
            self.push(None)
        return q.reshape(*q.shape[:2], H, D), kv.reshape(*kv.shape[:2], 2 * G, D)

    def _backward_both(self, dq: Array, dkv: Array) -> tuple[Array, Array]:
        B, T, H, D = dq.shape
        rows, width = H * D, (H + dkv.shape[2]) * D
        saved = self.pop()
        dq, dkv = dq.reshape(B, T, rows), dkv.reshape(B, dkv.shape[1], width - rows)
        if saved is not None:
            dw, bias = self.qkv.weight.grad, self.qkv.bias
            db = None if bias is None else bias.grad

            def piece(a: Array | None, part: slice) -> Array | None:
                return None if a is None else a[part]

            q_rows, kv_rows = slice(0, rows), slice(rows, width)
            return (
                linear.backward(dq, saved[0], piece(dw, q_rows), piece(db, q_rows)),
                linear.backward(dkv, saved[1], piece(dw, kv_rows), piece(db, kv_rows)),
            )
        # The layer was called for x first and for the memory second.
        both = []
        for d, part in ((dkv, slice(rows, width)), (dq, slice(0, rows))):
            wide = backend.zeros((*d.shape[:2], width), d)
            wide[..., part] = d
            both.append(self.qkv.backward(wide))
        return both[1], both[0]
