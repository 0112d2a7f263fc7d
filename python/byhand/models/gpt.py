"""GPT: a decoder-only transformer language model (Radford et al., 2018, 2019).

    ids -> token embedding + position embedding -> dropout
        -> blocks: x + attention(norm(x)), x + feed-forward(norm(x))
        -> norm -> linear head -> logits

With ``norm_first`` False a block is norm(x + attention(x)), norm(x + feed-forward(x)), and no norm
is before the head (Radford et al., 2018; Vaswani et al., 2017, section 3.1).

The backward pass is the forward pass read from the bottom up.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any, Literal

import numpy as np

from byhand import backend
from byhand.backend import Array
from byhand.config import Config as ConfigBase
from byhand.config import config, flag, positive_int, probability, require_config
from byhand.models.preset import Preset
from byhand.nn import (
    Dropout,
    Embedding,
    FeedForward,
    KeyValueCache,
    LayerNorm,
    Linear,
    Module,
    MultiHeadAttention,
    init,
)
from byhand.nn.cache import DecoderCache
from byhand.nn.protocol import contiguous, converted, require_sizes
from byhand.ops import check, cross_entropy, linear_cross_entropy

_FORWARD = "forward"  # saved by a forward pass without a loss
IGNORED = -100  # a target with this value is not counted in the loss


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
        norm_first: norms before attention and feed-forward part (pre-norm), or else after each
            residual (post-norm).

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
    norm_first: bool = flag(True, help="norms before each part of a block, not after", absent=True)

    def check(self) -> None:
        if self.embedding_dim % self.num_heads:
            raise self.error(
                "embedding_dim must be a multiple of num_heads, got "
                f"{self.embedding_dim} and {self.num_heads}"
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
    """x + attention(norm1(x)), then x + ffn(norm2(x)); without ``norm_first`` it is
    norm1(x + attention(x)), then norm2(x + ffn(x)). Shapes: (B, T, C) in and out.
    """

    def __init__(self, c: GPTConfig):
        C, bias = c.embedding_dim, c.use_bias
        self.norm_first = c.norm_first
        wide = init.Normal(0.02)
        narrow = init.Normal(0.02 / math.sqrt(2 * c.num_layers))
        self.norm1 = LayerNorm(C, bias=bias)
        self.attention = MultiHeadAttention(
            C,
            c.num_heads,
            causal=True,
            bias=bias,
            dropout=c.dropout,
            residual_dropout=c.dropout,
            weight_init=wide,
            project_init=narrow,
            bias_init=init.zeros,
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

    def forward(self, x: Array, cache: KeyValueCache | None = None) -> Array:
        if not self.norm_first:
            x = self.norm1(self.attention(x, add=x, cache=cache))
            return self.norm2(self.ffn(x, add=x, again=self.norm1.again))
        x = self.attention(self.norm1(x), add=x, again=self.norm1.again, cache=cache)
        return self.ffn(self.norm2(x), add=x, again=self.norm2.again)

    def backward(self, dy: Array) -> Array:
        if not self.norm_first:
            d = self.norm2.backward(dy)
            d = self.norm1.backward(self.ffn.backward(d) + d)
            return self.attention.backward(d) + d
        d = self.norm2.backward(self.ffn.backward(dy), add=dy)
        return self.norm1.backward(self.attention.backward(d), add=d)


class Decoder(Module):
    """All of a GPT but the head: ids (B, T) int64 -> (B, T, C).

    With ``recompute`` a forward pass saves only the input of each block, and ``backward`` runs the
    block's forward pass again (Chen et al., "Training deep nets with sublinear memory cost", 2016).
    The results have the same bits, a step takes about a third longer, and only the activations of
    one block are in memory at a time.
    """

    def __init__(self, c: GPTConfig, recompute: bool = False):
        self.config = c
        self.recompute = recompute
        table = init.Normal(0.02)
        self.tokens = Embedding(c.vocabulary_size, c.embedding_dim, weight_init=table)
        self.positions = Embedding(c.context_size, c.embedding_dim, weight_init=table)
        self.dropout = Dropout(c.dropout)
        self.blocks = [Block(c) for _ in range(c.num_layers)]
        self.norm = LayerNorm(c.embedding_dim, bias=c.use_bias) if c.norm_first else None
        self._positions_on_gpu: dict[tuple[int, ...], Array] = {}

    _input_dtype = np.int64

    def _input_shape(self, batch: int) -> tuple[int, ...]:
        return batch, self.config.context_size

    def forward(self, ids: Array, cache: DecoderCache | None = None) -> Array:
        start = 0 if cache is None else cache.length
        self.check_ids("ids", ids, start)
        x = self.dropout(self.positions(self._positions_of(ids, start), add=self.tokens(ids)))
        for i, block in enumerate(self.blocks):
            if self.recompute and self._saving:
                self.push((x, self.generator.count))
                with block.no_save():
                    x = block(x)
            else:
                x = block(x, None if cache is None else cache.layers[i])
        return x if self.norm is None else self.norm(x)

    def backward(self, dy: Array) -> None:
        d = dy if self.norm is None else self.norm.backward(dy)
        for block in reversed(self.blocks):
            if self.recompute:
                x, draws = self.pop()
                with self.generator.replay_from(draws):
                    block(x)
            d = block.backward(d)
        d = self.dropout.backward(d)
        self.positions.backward(d)
        self.tokens.backward(d)

    def _positions_of(self, ids: Array, start: int) -> Array:
        """start, start + 1, ... in every row, int64 (B, T) like ids; on a GPU cached per shape."""
        B, T = ids.shape
        if not backend.is_cupy(ids):
            return np.tile(np.arange(start, start + T), (B, 1))
        key = (B, T, ids.device.id)
        made = self._positions_on_gpu.get(key) if start == 0 else None
        if made is None:
            made = backend.to_device_of(np.tile(np.arange(start, start + T), (B, 1)), ids)
            if start == 0:  # not in decoding, where start changes with every token
                self._positions_on_gpu[key] = made
        return made

    def check_ids(self, name: str, ids: Any, start: int = 0) -> None:
        if not isinstance(ids, np.ndarray) and not backend.is_cupy(ids):
            raise TypeError(
                f"GPT: {name} must be an int64 array, got {type(ids).__name__}: use "
                f"np.array({name}, np.int64)"
            )
        if ids.dtype != np.int64:
            how = f": use {name}.astype(np.int64)" if ids.dtype.kind in "iu" else ""
            raise TypeError(f"GPT: {name} must be int64, got {ids.dtype}{how}")
        if ids.ndim != 2:
            how = f": use {name}[None] for one sequence" if ids.ndim == 1 else ""
            raise ValueError(f"GPT: {name} must have shape (B, T), got {ids.shape}{how}")
        if start + ids.shape[1] > self.config.context_size:
            held = f" after the {start} in the cache" if start else ""
            raise ValueError(
                f"GPT: {ids.shape[1]} tokens{held} do not fit the context of "
                f"{self.config.context_size}"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_positions_on_gpu": {}}


class GPT(Module):
    """A GPT with float32 parameters drawn from ``seed``; ``precision`` is "float32" or "bf16"
    (see `Module.precision`), ``recompute`` saves memory (see `Decoder`).

    Weights start as N(0, 0.02²), those that write into the residual stream scaled down by
    1/sqrt(2 * num_layers) (Radford et al., 2019, section 2.3); biases at zero. ``draw=False``
    leaves them undefined, for weights that will be loaded.

        logits = model(ids)                 # ids (B, T) int64 -> (B, T, V)
        loss = model.loss(ids, targets)     # targets (B, T) int64 -> 0-d array
        model.backward()                    # adds the loss's gradient to every Parameter.grad
    """

    def __init__(
        self,
        config: GPTConfig,
        seed: int = 0,
        precision: str = "float32",
        recompute: bool = False,
        draw: bool = True,
    ):
        self._config = require_config("GPT", config, GPTConfig)
        self.decoder = Decoder(config, recompute)
        self.head = Linear(
            config.embedding_dim, config.vocabulary_size, False, weight_init=init.Normal(0.02)
        )
        if config.tie_weights:
            self.head.weight = self.decoder.tokens.weight
        self.precision = precision
        self.build(seed, draw=draw)

    @property
    def config(self) -> GPTConfig:
        """The sizes that the model was made with; a model of other sizes is a new model."""
        return self._config

    def forward(self, ids: Array, cache: DecoderCache | None = None) -> Array:
        """Logits (B, T, V) of the token that follows each position.

        With a cache, ``ids`` continue the sequence in it, only their logits are computed, and
        nothing is saved for a backward pass. Raises ValueError for a wrong shape or more tokens
        than the context holds, TypeError for ids that are not int64, IndexError for an unknown id.
        """
        if cache is not None and not isinstance(cache, DecoderCache):
            raise TypeError(f"GPT: cache must be what new_cache() gives, got {cache!r}")
        if cache is None:
            with self.discard_on_error():
                logits = self.head(self.decoder(ids))
                self.push(_FORWARD)
                return logits
        with self.no_save() if self._saving else nullcontext():
            return self.head(self.decoder(ids, cache))

    _input_dtype = np.int64

    def _input_shape(self, batch: int) -> tuple[int, ...]:
        return batch, self.config.context_size

    def backward_logits(self, dlogits: Array) -> None:
        """The backward pass of ``forward``: adds to every Parameter.grad. dlogits (B, T, V)."""
        if self.peek() is not _FORWARD:
            raise RuntimeError(
                "GPT.backward_logits: the last forward pass was loss(ids, targets), whose gradient "
                "backward() adds without an argument"
            )
        d = self.head.backward(dlogits)
        self.pop()
        self.decoder.backward(d)

    def loss(self, ids: Array, targets: Array, scale: Any = None) -> Array:
        """Mean cross-entropy in nats over the positions that count, a 0-d array.

        ids, targets: (B, T) int64; a target of -100 does not count. With ``scale``, a number or a
        0-d array, the result is the sum over these positions times the scale, as needed for a loss
        that is a mean over several batches.

        The gradient of the head is added here already (unless saving is off), because the logits
        never exist as a whole and ``backward`` could not use them later. If no backward pass will
        follow, call ``discard_saved`` and ``zero_grad``. A call that raises an error has added
        nothing.
        """
        (ids, targets), _ = converted("GPT", self.loss, (ids, targets), {})
        self._check_targets(ids, targets)
        if getattr(scale, "shape", ()) != () or isinstance(scale, (str, list, tuple)):
            raise TypeError(f"GPT: scale must be a number or a 0-d array, got {scale!r}")
        reduction: Literal["mean", "sum"] = "mean" if scale is None else "sum"
        with self.discard_on_error():
            hidden = self.decoder(ids)
            if type(self.head) is Linear and self.head.bias is None:
                weight = self.head.weight
                loss, dx = linear_cross_entropy.forward(
                    hidden,
                    weight.compute_value,
                    contiguous(targets),
                    weight.grad if self._saving else None,
                    need_dx=self._saving,
                    reduction=reduction,
                    dloss=1.0 if scale is None else scale,
                    bf16=self._bf16,
                )
            else:
                loss, saved = cross_entropy.forward(
                    self.head(hidden), contiguous(targets), reduction=reduction
                )
                dx = None
                if self._saving:
                    dlogits = cross_entropy.backward(1.0 if scale is None else scale, saved)
                    dx = self.head.backward(dlogits)
            self.push(dx)
        if scale is not None:
            loss *= scale
        return loss

    def backward(self, dlogits: Array | None = None) -> None:
        """Adds to every Parameter.grad what the last ``loss`` has not added yet, or, with the
        gradient of the logits (B, T, V), does what ``backward_logits`` does. RuntimeError when that
        does not fit the last forward pass.
        """
        if dlogits is not None:
            return self.backward_logits(dlogits)
        if self.peek() is _FORWARD:
            raise RuntimeError(
                "GPT.backward: the last forward pass was model(ids), which has no loss: call "
                "model.loss(ids, targets) instead, or pass the gradient of the logits, "
                "backward(dlogits)"
            )
        self.decoder.backward(self.pop())

    def new_cache(self, batch_size: int = 1) -> DecoderCache:
        """An empty key-value cache for ``batch_size`` sequences of up to context_size tokens."""
        require_sizes("GPT.new_cache", batch_size=batch_size)
        c = self.config
        like = self.decoder.tokens.weight.compute_value
        D = c.embedding_dim // c.num_heads
        return DecoderCache(
            [
                KeyValueCache(batch_size, c.context_size, c.num_heads, D, like)
                for _ in range(c.num_layers)
            ]
        )

    def check(self, ids: np.ndarray, targets: np.ndarray) -> None:
        """The errors of ``loss`` for ids and targets that are still on the host."""
        self._check_targets(ids, targets)
        check.ids("GPT", "ids", ids, self.config.vocabulary_size)
        check.ids("GPT", "targets", targets, self.config.vocabulary_size, IGNORED)

    def _check_targets(self, ids: Any, targets: Any) -> None:
        self.decoder.check_ids("ids", ids)
        self.decoder.check_ids("targets", targets)
        if targets.shape != ids.shape:
            raise ValueError(
                f"GPT: targets must have the shape of ids, {ids.shape}, got {targets.shape}"
            )


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
