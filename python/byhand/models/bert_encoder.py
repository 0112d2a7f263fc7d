"""BERT's encoder: embeddings, and blocks with norms after each residual."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from byhand import backend
from byhand.backend import Array
from byhand.models.bert_inputs import check_inputs
from byhand.models.block_stack import BlockStack
from byhand.nn import (
    Dropout,
    Embedding,
    FeedForward,
    LayerNorm,
    Module,
    MultiHeadAttention,
    init,
)
from byhand.nn.positions import positions_within

if TYPE_CHECKING:
    from byhand.models.bert import BertConfig


class Block(Module):
    """norm1(x + attention(x)), then norm2(x + ffn(x)). Shapes: (B, T, C) in and out."""

    def __init__(self, c: BertConfig):
        C, eps, p = c.hidden_size, c.layer_norm_eps, c.hidden_dropout_prob
        weights = init.Normal(c.initializer_range)
        self.attention = MultiHeadAttention(
            C,
            c.num_attention_heads,
            dropout=c.attention_probs_dropout_prob,
            residual_dropout=p,
            weight_init=weights,
            project_init=weights,
            bias_init=init.zeros,
        )
        self.norm1 = LayerNorm(C, eps)
        self.ffn = FeedForward(
            C,
            c.intermediate_size,
            c.hidden_act,
            dropout=p,
            up_init=weights,
            down_init=weights,
            bias_init=init.zeros,
        )
        self.norm2 = LayerNorm(C, eps)

    def forward(
        self, x: Array, lengths: Array | None = None, sequences: Array | None = None
    ) -> Array:
        x = self.norm1(self.attention(x, lengths=lengths, sequences=sequences, add=x))
        return self.norm2(self.ffn(x, add=x, again=self.norm1.again))

    def backward(self, dy: Array) -> Array:
        d = self.norm2.backward(dy)
        dx = self.ffn.backward(d)
        dx += d
        d = self.norm1.backward(dx)
        dx = self.attention.backward(d)
        dx += d
        return dx


class Encoder(BlockStack):
    """All of a BERT but the pooler and the head: ids (B, T) int64 -> (B, T, C)."""

    def __init__(self, c: BertConfig, recompute: bool = False):
        self.config = c
        self.recompute = recompute
        table = init.Normal(c.initializer_range)
        self.tokens = Embedding(c.vocab_size, c.hidden_size, weight_init=table)
        self.positions = Embedding(c.max_position_embeddings, c.hidden_size, weight_init=table)
        self.segments = Embedding(c.type_vocab_size, c.hidden_size, weight_init=table)
        self.norm = LayerNorm(c.hidden_size, c.layer_norm_eps)
        self.dropout = Dropout(c.hidden_dropout_prob)
        self.blocks = [Block(c) for _ in range(c.num_hidden_layers)]
        self._made: dict[tuple[int, ...], tuple[Array, Array]] = {}

    def forward(
        self,
        ids: Array,
        lengths: Array | None = None,
        segments: Array | None = None,
        sequences: Array | None = None,
    ) -> Array:
        check_inputs(self.config, ids, lengths, segments, sequences)
        positions, first = self._constants(ids)
        if sequences is not None:
            positions = positions_within(sequences)
        x = self.segments(first if segments is None else segments, add=self.tokens(ids))
        x = self.dropout(self.norm(self.positions(positions, add=x)))
        return self.through_blocks(x, lengths=lengths, sequences=sequences)

    def backward(self, dy: Array) -> None:
        d = self.back_through_blocks(dy)
        d = self.norm.backward(self.dropout.backward(d))
        self.positions.backward(d)
        self.segments.backward(d)
        self.tokens.backward(d)

    def there(self, ids: Array, lengths: Array | None) -> Array | None:
        """Which positions are no padding, (B, T) bool; None if there is no padding."""
        return None if lengths is None else self._constants(ids)[0] < lengths[:, None]

    def _constants(self, ids: Array) -> tuple[Array, Array]:
        """The positions 0, 1, ... and zeros in every row, int64 (B, T) like ids; on a GPU cached
        per shape.
        """
        B, T = ids.shape
        positions = np.tile(np.arange(T), (B, 1))
        if not backend.is_cupy(ids):
            return positions, np.zeros_like(positions)
        key = (B, T, ids.device.id)
        if key not in self._made:
            both = positions, np.zeros_like(positions)
            self._made[key] = tuple(backend.to_device_of(a, ids) for a in both)
        return self._made[key]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_made": {}}
