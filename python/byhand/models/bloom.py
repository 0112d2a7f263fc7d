"""BLOOM: a decoder-only transformer without vectors of positions (Scao et al., 2022).

    ids -> token embedding -> norm
        -> blocks: x + attention(norm(x)), x + feed-forward(norm(x))
        -> norm -> linear head, the token embedding's matrix -> logits

The scores of attention fall with the distance of the key (ALiBi, Press et al., 2022), and a norm
follows the embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from byhand.backend import Array
from byhand.config import Config as ConfigBase
from byhand.config import config, flag, positive, positive_int, probability
from byhand.models import causal_lm
from byhand.models.causal_lm import CausalLM
from byhand.models.preset import Preset
from byhand.models.weight_names import Weight
from byhand.nn import (
    Dropout,
    Embedding,
    FeedForward,
    LayerNorm,
    Module,
    MultiHeadAttention,
    init,
)


@config
class BloomConfig(ConfigBase):
    """The sizes of a BLOOM, under Hugging Face's names; byhand's own names are accepted too.

    Attributes:
        vocab_size: number of token ids, 0 .. vocab_size - 1.
        hidden_size: width of the residual stream; a multiple of n_head.
        n_layer: blocks.
        n_head: attention heads per block.
        seq_length: the most tokens the model sees at once. No parameter depends on it.
        hidden_dropout: probability of zeroing before each residual.
        attention_dropout: probability of zeroing an attention probability.
        layer_norm_epsilon: the eps of all norms.
        initializer_range: standard deviation of the first weights.
        tie_word_embeddings: the head shares the token embedding's matrix.

    Raises ValueError or TypeError naming the field that is wrong.
    """

    vocab_size: int = positive_int(help="different tokens", aliases=("vocabulary_size",))
    hidden_size: int = positive_int(
        help="numbers that describe a token in the model",
        aliases=("embedding_dim", "n_embed", "n_embd"),
        flag="--width",
    )
    n_layer: int = positive_int(
        help="transformer blocks", aliases=("num_layers", "num_hidden_layers"), flag="--layers"
    )
    n_head: int = positive_int(
        help="attention heads in a block; divides the width",
        aliases=("num_heads", "num_attention_heads"),
        flag="--heads",
    )
    seq_length: int = positive_int(
        2048,
        help="the most tokens the model sees at once",
        aliases=("context_size", "max_position_embeddings", "n_positions", "block_size"),
        flag="--context",
    )
    hidden_dropout: float = probability(
        0.0,
        help="part of the activations zeroed while training",
        aliases=("dropout",),
        flag="--dropout",
        default_text="",  # `byhand train` takes the preset's
    )
    attention_dropout: float = probability(
        0.0, help="part of the attention probabilities zeroed while training"
    )
    layer_norm_epsilon: float = positive(
        1e-5, help="added to the variance in norms", aliases=("layer_norm_eps",)
    )
    initializer_range: float = positive(0.02, help="standard deviation of the first weights")
    tie_word_embeddings: bool = flag(
        True, help="the head shares the token embedding's matrix", aliases=("tie_weights",)
    )

    def check(self) -> None:
        if self.hidden_size % self.n_head:
            raise self.error(
                f"hidden_size must be a multiple of n_head, got {self.hidden_size} and "
                f"{self.n_head}"
            )

    # byhand's names of the sizes.
    vocabulary_size = property(lambda self: self.vocab_size)
    context_size = property(lambda self: self.seq_length)
    embedding_dim = property(lambda self: self.hidden_size)
    num_layers = property(lambda self: self.n_layer)
    tie_weights = property(lambda self: self.tie_word_embeddings)
    num_heads = property(lambda self: self.n_head)

    def saved_activations(self, tokens: int, recompute: bool = False) -> int:
        """How many numbers a training step keeps at least between the forward and the backward pass
        of a batch of so many tokens, as `GPTConfig.saved_activations` counts them; the norm of the
        embedding keeps its input too.
        """
        blocks = self.n_layer + 10 if recompute else 10 * self.n_layer
        return tokens * self.hidden_size * (blocks + 3)


class Block(Module):
    """x + attention(norm1(x)), then x + ffn(norm2(x)). Shapes: (B, T, C) in and out. The options
    are those of attention: cache, sequences.
    """

    def __init__(self, c: BloomConfig):
        C, drawn = c.hidden_size, init.Normal(c.initializer_range)
        self.norm1 = LayerNorm(C, c.layer_norm_epsilon)
        self.attention = MultiHeadAttention(
            C,
            c.n_head,
            causal=True,
            dropout=c.attention_dropout,
            alibi=True,
            residual_dropout=c.hidden_dropout,
            weight_init=drawn,
            project_init=drawn,
            bias_init=init.zeros,
        )
        self.norm2 = LayerNorm(C, c.layer_norm_epsilon)
        self.ffn = FeedForward(
            C,
            4 * C,
            "gelu_new",
            dropout=c.hidden_dropout,
            up_init=drawn,
            down_init=drawn,
            bias_init=init.zeros,
        )

    def forward(self, x: Array, **options: Any) -> Array:
        x = self.attention(self.norm1(x), add=x, again=self.norm1.again, **options)
        return self.ffn(self.norm2(x), add=x, again=self.norm2.again)

    def backward(self, dy: Array) -> Array:
        d = self.norm2.backward(self.ffn.backward(dy), add=dy)
        return self.norm1.backward(self.attention.backward(d), add=d)


class Decoder(causal_lm.Decoder):
    """All of a BLOOM but the head: ids (B, T) int64 -> (B, T, C)."""

    config: BloomConfig

    def __init__(self, c: BloomConfig, recompute: bool = False):
        super().__init__(c, recompute)
        drawn = init.Normal(c.initializer_range)
        self.tokens = Embedding(c.vocab_size, c.hidden_size, weight_init=drawn)
        self.embedding_norm = LayerNorm(c.hidden_size, c.layer_norm_epsilon)
        self.dropout = Dropout(c.hidden_dropout)
        self.blocks = [Block(c) for _ in range(c.n_layer)]
        self.norm = LayerNorm(c.hidden_size, c.layer_norm_epsilon)

    def embed(self, ids: Array, start: int, positions: Array | None) -> Array:
        return self.dropout(self.embedding_norm(self.tokens(ids)))

    def embed_backward(self, d: Array) -> None:
        self.tokens.backward(self.embedding_norm.backward(self.dropout.backward(d)))


class Bloom(CausalLM[BloomConfig]):
    """A BLOOM with float32 parameters drawn from ``seed``; ``precision`` is "float32" or "bf16"
    (see `Module.precision`), ``recompute`` saves memory (see `BlockStack`).

    Weights start as N(0, initializer_range²), biases at zero. ``draw=False`` leaves them undefined,
    for weights that will be loaded.
    """

    _parts = BloomConfig, Decoder


Config, Model = BloomConfig, Bloom


# --- Hugging Face's names ------------------------------------------------------------------------

_BLOCK = {
    "norm1": "input_layernorm",
    "attention.qkv": "self_attention.query_key_value",
    "attention.project": "self_attention.dense",
    "norm2": "post_attention_layernorm",
    "ffn.up": "mlp.dense_h_to_4h",
    "ffn.down": "mlp.dense_4h_to_h",
}


def HF(c: BloomConfig) -> Iterator[Weight]:
    """The weights of a model of these sizes as transformers' BloomForCausalLM names them."""

    def both(ours: str, theirs: str, heads: int = 0) -> Iterator[Weight]:
        for kind in ("weight", "bias"):
            yield Weight(f"{ours}.{kind}", (f"transformer.{theirs}.{kind}",), heads=heads)

    yield Weight("decoder.tokens.weight", ("transformer.word_embeddings.weight",))
    yield from both("decoder.embedding_norm", "word_embeddings_layernorm")
    yield from both("decoder.norm", "ln_f")
    if not c.tie_word_embeddings:
        yield Weight("head.weight", ("lm_head.weight",))
    for i in range(c.n_layer):
        for ours, theirs in _BLOCK.items():
            heads = c.n_head if ours == "attention.qkv" else 0
            yield from both(f"decoder.blocks.{i}.{ours}", f"h.{i}.{theirs}", heads)


# --- Presets -------------------------------------------------------------------------------------


def _sizes(layers: int, heads: int, width: int, context: int, dropout: float) -> dict[str, Any]:
    return {
        "n_layer": layers,
        "n_head": heads,
        "hidden_size": width,
        "seq_length": context,
        "hidden_dropout": dropout,
    }


PRESETS = {
    "tiny": Preset(
        "0.8 million parameters",
        _sizes(4, 4, 128, 64, 0.0),
        {"batch_size": 12, "steps": 2000, "lr": 1e-3, "eval_every": 250},
    ),
    "small": Preset(
        "10.7 million parameters",
        _sizes(6, 6, 384, 256, 0.2),
        {"batch_size": 64, "steps": 5000, "lr": 1e-3, "eval_every": 250},
    ),
    "bloom-560m": Preset(
        "BLOOM-560M's shape: 302 million parameters and the vocabulary's",
        _sizes(24, 16, 1024, 2048, 0.0),
        {"batch_size": 1, "steps": 5000, "lr": 3e-4, "eval_every": 250},
    ),
}
