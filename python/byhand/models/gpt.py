"""GPT: a decoder-only transformer language model (Radford et al., 2018, 2019).

    ids -> token embedding + position embedding -> dropout
        -> blocks: x + attention(norm(x)), x + feed-forward(norm(x))
        -> norm -> linear head -> logits

With ``norm`` "post" a block is norm(x + attention(x)), norm(x + feed-forward(x)), and no norm is
before the head (Radford et al., 2018; Vaswani et al., 2017, section 3.1). Positions may also be
sinusoids that are added, rotations of queries and keys, or slopes of the scores (ALiBi).

The backward pass is the forward pass read from the bottom up.
"""

from __future__ import annotations

import math
from typing import Any

from byhand.backend import Array
from byhand.config import Config as ConfigBase
from byhand.config import choice, config, flag, positive_int, probability
from byhand.models import causal_lm
from byhand.models.causal_lm import CausalLM
from byhand.models.preset import Preset
from byhand.nn import (
    Dropout,
    Embedding,
    FeedForward,
    LayerNorm,
    LearnedPositions,
    LinearAttention,
    Module,
    MultiHeadAttention,
    RotaryPositions,
    SinusoidalPositions,
    init,
)


@config
class GPTConfig(ConfigBase):
    """The sizes of a GPT. Hugging Face's names of the fields are accepted too.

    Attributes:
        vocabulary_size: number of token ids, 0 .. vocabulary_size - 1.
        context_size: the most tokens the model sees at once.
        embedding_dim: width of the residual stream; a multiple of num_heads.
        num_heads: attention heads per block.
        num_layers: blocks.
        dropout: probability of zeroing, at the embedding, in attention and before each residual.
        use_bias: biases in linear layers and norms (the head has none).
        tie_weights: the head shares the token embedding's matrix (Press & Wolf, 2017).
        norm: "pre", norms before attention and feed-forward part, or "post", after each residual.
        positions: how the model knows where a token stands: "learned", a vector for each position;
            "sinusoidal", fixed vectors, and the token vectors are scaled by sqrt(embedding_dim)
            (Vaswani et al., 2017, sections 3.4 and 3.5); "rotary", queries and keys are rotated
            (Su et al., 2021); "alibi", scores fall with the distance (Press et al., 2022).
        attention: "softmax" or "linear" (Katharopoulos et al., 2020), whose cost grows linearly
            with the context; it has neither rotary positions nor ALiBi.

    Raises ValueError or TypeError naming the field that is wrong.
    """

    vocabulary_size: int = positive_int(help="different tokens", aliases=("vocab_size",))
    context_size: int = positive_int(
        help="the most tokens the model sees at once",
        aliases=("n_positions", "n_ctx", "max_position_embeddings", "block_size"),
        flag="--context",
    )
    embedding_dim: int = positive_int(
        help="numbers that describe a token in the model",
        aliases=("n_embd", "hidden_size"),
        flag="--width",
    )
    num_heads: int = positive_int(
        help="attention heads in a block; divides the width",
        aliases=("n_head", "num_attention_heads", "heads_num"),
        flag="--heads",
    )
    num_layers: int = positive_int(
        help="transformer blocks",
        aliases=("n_layer", "num_hidden_layers", "layers_num"),
        flag="--layers",
    )
    dropout: float = probability(
        0.0,
        help="part of the activations zeroed while training",
        aliases=("dropout_rate", "resid_pdrop"),
        default_text="",  # `byhand train` takes the preset's
    )
    use_bias: bool = flag(True, help="biases in linear layers and norms", aliases=("bias",))
    tie_weights: bool = flag(
        True,
        help="the head shares the token embedding's matrix",
        aliases=("tie_word_embeddings",),
    )
    norm: str = choice(
        ("pre", "post"), "pre", help="norms before or after each part of a block", absent="pre"
    )
    positions: str = choice(
        ("learned", "sinusoidal", "rotary", "alibi"),
        "learned",
        help="how the model knows where a token stands",
        absent="learned",
    )
    attention: str = choice(
        ("softmax", "linear"), "softmax", help="the kind of attention", absent="softmax"
    )

    def check(self) -> None:
        if self.embedding_dim % self.num_heads:
            raise self.error(
                "embedding_dim must be a multiple of num_heads, got "
                f"{self.embedding_dim} and {self.num_heads}"
            )
        if self.positions == "rotary" and self.embedding_dim // self.num_heads % 2:
            raise self.error(
                "embedding_dim / num_heads must be even for rotary positions, got "
                f"{self.embedding_dim} and {self.num_heads}"
            )
        if self.attention == "linear" and self.positions in ("rotary", "alibi"):
            raise self.error(
                "positions must be 'learned' or 'sinusoidal' with linear attention, got "
                f"{self.positions!r}"
            )

    def saved_activations(self, tokens: int, recompute: bool = False) -> int:
        """How many numbers a training step keeps at least between the forward and the backward pass
        of a batch of so many tokens.

        The embedding and the last norm keep width numbers for each token, and a block keeps 10 *
        width: its input, queries, keys and values (3), the attention's output, the block's middle
        and the feed-forward part's hidden layer (4). With ``recompute`` a block keeps only its
        input, and one block at a time the rest.
        """
        blocks = self.num_layers + 10 if recompute else 10 * self.num_layers
        return tokens * self.embedding_dim * (blocks + 2)


class Block(Module):
    """x + attention(norm1(x)), then x + ffn(norm2(x)); with ``norm`` "post" it is
    norm1(x + attention(x)), then norm2(x + ffn(x)). Shapes: (B, T, C) in and out. The options are
    those of attention: cache, sequences.
    """

    def __init__(self, c: GPTConfig, positions: RotaryPositions | None = None):
        C, bias = c.embedding_dim, c.use_bias
        self.norm_first = c.norm == "pre"
        wide = init.Normal(0.02)
        narrow = init.Normal(0.02 / math.sqrt(2 * c.num_layers))
        self.norm1 = LayerNorm(C, bias=bias)
        shared: dict[str, Any] = {
            "causal": True,
            "bias": bias,
            "residual_dropout": c.dropout,
            "weight_init": wide,
            "project_init": narrow,
            "bias_init": init.zeros,
        }
        self.attention: Any
        if c.attention == "linear":
            self.attention = LinearAttention(C, c.num_heads, **shared)
        else:
            alibi = c.positions == "alibi"
            self.attention = MultiHeadAttention(
                C, c.num_heads, dropout=c.dropout, positions=positions, alibi=alibi, **shared
            )
        self.norm2 = LayerNorm(C, bias=bias)
        self.ffn = FeedForward(
            C,
            4 * C,
            "gelu_new",
            bias,
            c.dropout,
            up_init=wide,
            down_init=narrow,
            bias_init=init.zeros,
        )

    def forward(self, x: Array, **options: Any) -> Array:
        if not self.norm_first:
            x = self.norm1(self.attention(x, add=x, **options))
            return self.norm2(self.ffn(x, add=x, again=self.norm1.again))
        x = self.attention(self.norm1(x), add=x, again=self.norm1.again, **options)
        return self.ffn(self.norm2(x), add=x, again=self.norm2.again)

    def backward(self, dy: Array) -> Array:
        if not self.norm_first:
            d = self.norm2.backward(dy)
            d = self.norm1.backward(self.ffn.backward(d) + d)
            return self.attention.backward(d) + d
        d = self.norm2.backward(self.ffn.backward(dy), add=dy)
        return self.norm1.backward(self.attention.backward(d), add=d)


class Decoder(causal_lm.Decoder):
    """All of a GPT but the head: ids (B, T) int64 -> (B, T, C)."""

    config: GPTConfig

    def __init__(self, c: GPTConfig, recompute: bool = False):
        super().__init__(c, recompute)
        C, table = c.embedding_dim, init.Normal(0.02)
        fixed = c.positions == "sinusoidal"
        scale = math.sqrt(C) if fixed else 1.0
        self.tokens = Embedding(c.vocabulary_size, C, scale=scale, weight_init=table)
        self.positions: Any = None
        if fixed:
            self.positions = SinusoidalPositions(C)
        elif c.positions == "learned":
            self.positions = LearnedPositions(c.context_size, C, weight_init=table)
        rotary = None
        if c.positions == "rotary":
            rotary = RotaryPositions(C // c.num_heads, context=c.context_size)
        self.dropout = Dropout(c.dropout)
        self.blocks = [Block(c, rotary) for _ in range(c.num_layers)]
        self.norm = LayerNorm(C, bias=c.use_bias) if c.norm == "pre" else None

    def embed(self, ids: Array, start: int, positions: Array | None) -> Array:
        x = self.tokens(ids)
        if self.positions is not None:
            x = self.positions(x, positions, start)
        return self.dropout(x)

    def embed_backward(self, d: Array) -> None:
        d = self.dropout.backward(d)
        if self.positions is not None:
            d = self.positions.backward(d)
        self.tokens.backward(d)


class GPT(CausalLM[GPTConfig]):
    """A GPT with float32 parameters drawn from ``seed``; ``precision`` is "float32" or "bf16"
    (see `Module.precision`), ``recompute`` saves memory (see `BlockStack`).

    Weights start as N(0, 0.02²), those that write into the residual stream scaled down by
    1/sqrt(2 * num_layers) (Radford et al., 2019, section 2.3); biases at zero. ``draw=False``
    leaves them undefined, for weights that will be loaded.
    """

    _parts = GPTConfig, Decoder


Config, Model = GPTConfig, GPT


def _sizes(layers: int, heads: int, width: int, context: int, dropout: float) -> dict[str, Any]:
    return {
        "num_layers": layers,
        "num_heads": heads,
        "embedding_dim": width,
        "context_size": context,
        "dropout": dropout,
    }


PRESETS = {
    "tiny": Preset(
        "0.8 million parameters",
        _sizes(4, 4, 128, 64, 0.0),
        {"batch_size": 12, "steps": 2000, "lr": 1e-3, "eval_every": 250},
    ),
    "guide": Preset(
        "10.7 million parameters",
        _sizes(6, 6, 384, 64, 0.2),
        {"batch_size": 64, "steps": 5000, "lr": 1e-3, "eval_every": 100},
    ),
    "baby": Preset(
        "10.8 million parameters",
        _sizes(6, 6, 384, 256, 0.2),
        {"batch_size": 64, "steps": 5000, "lr": 1e-3, "eval_every": 250},
    ),
    "gpt2": Preset(
        "86 million parameters",
        _sizes(12, 12, 768, 1024, 0.0),
        {"batch_size": 4, "steps": 5000, "lr": 6e-4, "eval_every": 250},
    ),
}
