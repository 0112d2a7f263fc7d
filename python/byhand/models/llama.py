"""Llama: a decoder-only transformer with rotary positions (Touvron et al., 2023, "LLaMA").

    ids -> token embedding
        -> blocks: x + attention(norm(x)), x + feed-forward(norm(x))
        -> norm -> linear head -> logits

The norms are RMSNorm, queries and keys are rotated by their positions, several query heads may
share one head of keys and values, and the feed-forward part is gated (SwiGLU). Its relatives are
options of the configuration:

    Qwen2     attention_bias, attention_output_bias=False      Mistral   sliding_window
    Qwen3     head_dim, qk_norm                                Mixtral   num_local_experts
    GPT-NeoX  norm="layer", gated=False, attention_bias, mlp_bias, partial_rotary_factor,
              parallel_residual: x + attention(norm(x)) + feed-forward(norm(x))
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from byhand.backend import Array
from byhand.config import Config as ConfigBase
from byhand.config import (
    choice,
    config,
    flag,
    fraction_or_1,
    json_object,
    non_negative,
    positive,
    positive_int,
    probability,
)
from byhand.models import causal_lm
from byhand.models.causal_lm import CausalLM
from byhand.models.llama_names import HF as HF
from byhand.models.preset import Preset
from byhand.nn import (
    Dropout,
    Embedding,
    FeedForward,
    LayerNorm,
    MixtureOfExperts,
    Module,
    MultiHeadAttention,
    RMSNorm,
    RotaryPositions,
    SwiGLU,
    init,
)
from byhand.nn.activation import NAMES as ACTIVATIONS
from byhand.nn.experts import balance
from byhand.nn.protocol import converted
from byhand.ops import check


@config
class LlamaConfig(ConfigBase):
    """The sizes of a Llama, under Hugging Face's names; byhand's own names are accepted too.

    Attributes:
        vocab_size: number of token ids, 0 .. vocab_size - 1.
        hidden_size: width of the residual stream.
        intermediate_size: width of the feed-forward part's hidden layer.
        num_hidden_layers: blocks.
        num_attention_heads: query heads per block.
        num_key_value_heads: heads of keys and values, each shared by the same number of query heads
            (Ainslie et al., 2023); None: as many as query heads.
        max_position_embeddings: the most tokens the model sees at once.
        head_dim: width of a head; None: hidden_size / num_attention_heads.
        rope_theta, rope_scaling, partial_rotary_factor: base, scaling and rotated part of
            `RotaryPositions`.
        rms_norm_eps: the eps of all norms.
        tie_word_embeddings: the head shares the token embedding's matrix.
        attention_bias: biases of queries, keys and values; attention_output_bias is that of the
            layer after attention, None: the same. mlp_bias: biases of the feed-forward part.
        hidden_act: the activation of the feed-forward part.
        initializer_range: standard deviation of the first weights; those that write into the
            residual stream start smaller, by 1/sqrt(2 * num_hidden_layers).
        dropout: probability of zeroing, at the embedding and before each residual.
        attention_dropout: probability of zeroing an attention probability.
        qk_norm: RMSNorm of each head's queries and keys.
        sliding_window: a position attends to itself and the sliding_window - 1 before it.
        parallel_residual: attention and feed-forward part of a block have the same input.
        norm: "rms" for RMSNorm or "layer" for LayerNorm.
        gated: the feed-forward part is gated, or else linear, activation, linear.
        num_local_experts, num_experts_per_tok: the feed-forward part is a `MixtureOfExperts` with
            so many experts, of which a token uses so many; None: one feed-forward part.
        router_aux_loss_coef: weight of the experts' load-balance loss (`nn.experts.balance`).

    Raises ValueError or TypeError naming the field that is wrong.
    """

    vocab_size: int = positive_int(help="different tokens", aliases=("vocabulary_size",))
    hidden_size: int = positive_int(
        help="numbers that describe a token in the model",
        aliases=("embedding_dim", "n_embd"),
        flag="--width",
    )
    intermediate_size: int = positive_int(
        help="width of the feed-forward part's hidden layer", flag="--hidden"
    )
    num_hidden_layers: int = positive_int(
        help="transformer blocks", aliases=("num_layers", "n_layer"), flag="--layers"
    )
    num_attention_heads: int = positive_int(
        help="query heads in a block", aliases=("num_heads", "n_head"), flag="--heads"
    )
    num_key_value_heads: int | None = positive_int(
        None,
        help="heads of keys and values; divides the query heads",
        aliases=("num_kv_heads",),
        flag="--kv-heads",
    )
    max_position_embeddings: int = positive_int(
        2048,
        help="the most tokens the model sees at once",
        aliases=("context_size", "n_positions", "n_ctx", "block_size"),
        flag="--context",
    )
    head_dim: int | None = positive_int(None, help="width of a head, if not width / heads")
    rope_theta: float = positive(
        10000.0, help="base of the rotary positions' angles", aliases=("rotary_emb_base",)
    )
    rope_scaling: dict[str, Any] | None = json_object(
        None, help="how rotary positions are stretched, with Hugging Face's fields"
    )
    partial_rotary_factor: float = fraction_or_1(
        1.0, help="part of a head that is rotated", aliases=("rotary_pct",)
    )
    rms_norm_eps: float = positive(
        1e-6, help="added to the variance in norms", aliases=("layer_norm_eps",)
    )
    tie_word_embeddings: bool = flag(
        False, help="the head shares the token embedding's matrix", aliases=("tie_weights",)
    )
    attention_bias: bool = flag(False, help="biases of queries, keys and values")
    attention_output_bias: bool | None = flag(
        None, help="bias after attention, if not as attention_bias"
    )
    mlp_bias: bool = flag(False, help="biases of the feed-forward part")
    hidden_act: str = choice(tuple(ACTIVATIONS), "silu", help="activation of the feed-forward part")
    initializer_range: float = positive(0.02, help="standard deviation of the first weights")
    dropout: float = probability(
        0.0,
        help="part of the activations zeroed while training",
        aliases=("hidden_dropout", "dropout_rate", "resid_pdrop"),
    )
    attention_dropout: float = probability(
        0.0, help="part of the attention probabilities zeroed while training"
    )
    qk_norm: bool = flag(False, help="RMSNorm of queries and keys")
    sliding_window: int | None = positive_int(
        None, help="how many tokens a token attends to, itself included", flag="--window"
    )
    parallel_residual: bool = flag(
        False,
        help="attention and feed-forward part beside each other",
        aliases=("use_parallel_residual",),
    )
    norm: str = choice(("rms", "layer"), "rms", help="kind of the norms")
    gated: bool = flag(True, help="a gated feed-forward part")
    num_local_experts: int | None = positive_int(
        None, help="experts in the place of a feed-forward part", aliases=("num_experts",)
    )
    num_experts_per_tok: int = positive_int(2, help="experts that a token uses")
    router_aux_loss_coef: float = non_negative(
        0.001, help="weight of the loss that gives the experts equal loads"
    )

    def check(self) -> None:
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise self.error(
                "hidden_size must be a multiple of num_attention_heads, or head_dim be given, got "
                f"{self.hidden_size} and {self.num_attention_heads}"
            )
        if self.num_attention_heads % self.kv_heads:
            raise self.error(
                "num_attention_heads must be a multiple of num_key_value_heads, got "
                f"{self.num_attention_heads} and {self.kv_heads}"
            )
        if self.num_local_experts is not None:
            self.require(self.gated, "gated", "True with num_local_experts")
            most = f"at most num_local_experts = {self.num_local_experts}"
            few = self.num_experts_per_tok <= self.num_local_experts
            self.require(few, "num_experts_per_tok", most)
        try:
            self.rotary()
        except (TypeError, ValueError) as error:
            sentence = str(error).removeprefix("RotaryPositions: ")
            for theirs, ours in (("scaling", "rope_scaling"), ("base", "rope_theta")):
                if sentence.startswith(theirs):
                    sentence = ours + sentence.removeprefix(theirs)
            raise self.error(sentence, type(error)) from None

    # byhand's names of the sizes.
    vocabulary_size = property(lambda self: self.vocab_size)
    context_size = property(lambda self: self.max_position_embeddings)
    embedding_dim = property(lambda self: self.hidden_size)
    num_layers = property(lambda self: self.num_hidden_layers)
    tie_weights = property(lambda self: self.tie_word_embeddings)
    num_heads = property(lambda self: self.num_attention_heads)

    @property
    def kv_heads(self) -> int:
        """The heads of keys and values."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_width(self) -> int:
        """The width of a head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    def rotary(self) -> RotaryPositions:
        """The rotary positions of a model of these sizes."""
        part = self.partial_rotary_factor
        return RotaryPositions(
            self.head_width,
            self.rope_theta,
            self.rope_scaling,
            partial_rotary_factor=None if part == 1 else part,
            context=self.max_position_embeddings,
        )

    def least_parameters(self) -> int:
        """How many numbers the matrices of a model of these sizes have; vectors come on top."""
        C = self.hidden_size
        rows = 2 * (self.num_attention_heads + self.kv_heads) * self.head_width
        ffn = (2 + self.gated) * self.intermediate_size * (self.num_local_experts or 1)
        ffn += self.num_local_experts or 0
        tables = self.vocab_size * (2 - self.tie_word_embeddings)
        return (self.num_hidden_layers * (rows + ffn) + tables) * C

    def saved_activations(self, tokens: int, recompute: bool = False) -> int:
        """How many numbers a training step keeps at least between the forward and the backward pass
        of a batch of so many tokens.

        The embedding and the last norm keep width numbers for each token. A block keeps its input
        and (unless its parts are beside each other) its middle, queries, keys and values, the
        attention's output, and the feed-forward part's hidden layer, of a gated one both halves, or
        those of the experts that a token uses. With ``recompute`` a block keeps only its input, and
        one block at a time the rest.
        """
        rows = 2 * (self.num_attention_heads + self.kv_heads) * self.head_width
        block = (2 - self.parallel_residual) * self.hidden_size + rows
        parts = 1 if self.num_local_experts is None else self.num_experts_per_tok
        block += parts * (1 + self.gated) * self.intermediate_size
        layers = self.num_hidden_layers
        blocks = layers * self.hidden_size + block if recompute else layers * block
        return tokens * (blocks + 2 * self.hidden_size)


def _norm(c: LlamaConfig) -> Module:
    kind = RMSNorm if c.norm == "rms" else LayerNorm
    return kind(c.hidden_size, c.rms_norm_eps)


class Block(Module):
    """x + attention(norm1(x)), then x + ffn(norm2(x)); with ``parallel_residual`` it is
    x + attention(norm1(x)) + ffn(norm2(x)). Shapes: (B, T, C) in and out. The options are those of
    attention: cache, sequences.
    """

    def __init__(self, c: LlamaConfig, positions: RotaryPositions):
        self.parallel = c.parallel_residual
        wide = init.Normal(c.initializer_range)
        narrow = init.Normal(c.initializer_range / math.sqrt(2 * c.num_hidden_layers))
        output_bias = c.attention_output_bias
        self.norm1: Any = _norm(c)
        self.attention = MultiHeadAttention(
            c.hidden_size,
            c.num_attention_heads,
            c.kv_heads,
            causal=True,
            bias=c.attention_bias,
            dropout=c.attention_dropout,
            positions=positions,
            head_dim=c.head_width,
            qk_norm=c.rms_norm_eps if c.qk_norm else None,
            project_bias=c.attention_bias if output_bias is None else output_bias,
            window=c.sliding_window,
            residual_dropout=c.dropout,
            weight_init=wide,
            project_init=narrow,
            bias_init=init.zeros,
        )
        self.norm2: Any = _norm(c)
        kind: Any = SwiGLU if c.gated else FeedForward
        sizes = [c.hidden_size, c.intermediate_size]
        if c.num_local_experts is not None:
            kind, sizes = MixtureOfExperts, [*sizes, c.num_local_experts, c.num_experts_per_tok]
        self.ffn = kind(
            *sizes,
            activation=c.hidden_act,
            bias=c.mlp_bias,
            dropout=c.dropout,
            up_init=wide,
            down_init=narrow,
            bias_init=init.zeros,
        )

    def forward(self, x: Array, **options: Any) -> Array:
        y = self.attention(self.norm1(x), add=x, again=self.norm1.again, **options)
        return self.ffn(self.norm2(x if self.parallel else y), add=y, again=self.norm2.again)

    def backward(self, dy: Array) -> Array:
        d = self.norm2.backward(self.ffn.backward(dy), add=dy)
        # d reaches x directly, and through attention too unless the two are beside each other.
        return self.norm1.backward(self.attention.backward(dy if self.parallel else d), add=d)


class Decoder(causal_lm.Decoder):
    """All of a Llama but the head: ids (B, T) int64 -> (B, T, C)."""

    config: LlamaConfig

    def __init__(self, c: LlamaConfig, recompute: bool = False):
        super().__init__(c, recompute)
        table = init.Normal(c.initializer_range)
        self.tokens = Embedding(c.vocab_size, c.hidden_size, weight_init=table)
        self.dropout = Dropout(c.dropout)
        positions = c.rotary()  # one table of angles for all blocks
        self.blocks = [Block(c, positions) for _ in range(c.num_hidden_layers)]
        self.norm = _norm(c)

    def embed(self, ids: Array, start: int, positions: Array | None) -> Array:
        return self.dropout(self.tokens(ids))

    def embed_backward(self, d: Array) -> None:
        self.tokens.backward(self.dropout.backward(d))


class _Balanced(NamedTuple):
    """Saved by a loss with experts: the gradients of their load-balance loss, one a block."""

    gradients: list[Any]


class Llama(CausalLM[LlamaConfig]):
    """A Llama with float32 parameters drawn from ``seed``; ``precision`` is "float32" or "bf16"
    (see `Module.precision`), ``recompute`` saves memory (see `BlockStack`).

    Weights start as N(0, initializer_range²), those that write into the residual stream scaled down
    by 1/sqrt(2 * num_hidden_layers) (Radford et al., 2019, section 2.3); biases at zero.
    ``draw=False`` leaves them undefined, for weights that will be loaded.

    With experts the loss of a model in training mode has router_aux_loss_coef times their
    load-balance loss added; with ``scale``, times the sum's scale and the targets that count.
    """

    _parts = LlamaConfig, Decoder

    def loss(
        self, ids: Array, targets: Array, scale: Any = None, sequences: Array | None = None
    ) -> Array:
        (ids, targets), _ = converted("Llama", self.loss, (ids, targets), {})
        loss, c = super().loss(ids, targets, scale, sequences), self.config
        if c.num_local_experts is None:
            return loss
        gradients: list[Any] = [None] * c.num_hidden_layers
        if self.training and c.router_aux_loss_coef > 0:
            weight = c.router_aux_loss_coef
            if scale is not None:
                weight = weight * scale * (targets != check.IGNORED).sum()
            value, of_each = balance([block.ffn.routing for block in self.decoder.blocks])
            loss += (weight * value).astype(loss.dtype)
            gradients = [(weight * g).astype(g.dtype) for g in of_each]
        self.push(_Balanced(gradients))
        return loss

    def backward(self, dlogits: Array | None = None) -> None:
        if dlogits is not None or not isinstance(self.peek(), _Balanced):
            return super().backward(dlogits)
        gradients = self.pop().gradients
        for block, gradient in zip(self.decoder.blocks, gradients, strict=True):
            block.ffn.balance_gradient = gradient
        super().backward()
        for block in self.decoder.blocks:
            block.ffn.balance_gradient = None


Config, Model = LlamaConfig, Llama


# --- Presets -------------------------------------------------------------------------------------


def _sizes(
    layers: int, heads: int, kv_heads: int, width: int, hidden: int, context: int, **more: Any
) -> dict[str, Any]:
    return {
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_size": width,
        "intermediate_size": hidden,
        "max_position_embeddings": context,
        "tie_word_embeddings": True,
        **more,
    }


_FROM_8192 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
PRESETS = {
    "tiny": Preset(
        "1 million parameters",
        _sizes(4, 4, 2, 128, 512, 64),
        {"batch_size": 12, "steps": 2000, "lr": 1e-3, "eval_every": 250},
    ),
    "small": Preset(
        "9.4 million parameters",
        _sizes(6, 6, 2, 384, 1024, 256, dropout=0.2),
        {"batch_size": 64, "steps": 5000, "lr": 1e-3, "eval_every": 250},
    ),
    "smollm2-135m": Preset(
        "SmolLM2-135M's shape: 106 million parameters and the vocabulary's",
        _sizes(30, 9, 3, 576, 1536, 8192, rope_theta=1e5, rms_norm_eps=1e-5),
        {"batch_size": 4, "steps": 5000, "lr": 1e-3, "eval_every": 250},
    ),
    "llama-3.2-1b": Preset(
        "Llama-3.2-1B's shape: 973 million parameters and the vocabulary's",
        _sizes(
            *(16, 32, 8, 2048, 8192, 131072),
            rope_theta=5e5,
            rms_norm_eps=1e-5,
            rope_scaling=_FROM_8192,
        ),
        {"batch_size": 1, "steps": 5000, "lr": 3e-4, "eval_every": 250},
    ),
}
