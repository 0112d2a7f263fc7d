"""GPT: a decoder-only transformer language model (Radford et al., 2018, 2019).

    ids -> token embedding + position embedding -> dropout
        -> blocks: x + attention(norm(x)), x + feed-forward(norm(x))
        -> norm -> linear head -> logits

The backward pass is the forward pass read from the bottom up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from byhand import backend
from byhand.backend import Array
from byhand.nn.layers import Dropout, Embedding, LayerNorm, Linear
from byhand.nn.module import Generator, Module
from byhand.nn.transformer import Block, KeyValueCache
from byhand.ops import linear_cross_entropy


@dataclass(frozen=True)
class GPTConfig:
    """The sizes of a GPT.

    Attributes:
        vocabulary_size: number of token ids, 0 .. vocabulary_size - 1.
        context_size: the most tokens the model sees at once.
        embedding_dim: width of the residual stream; a multiple of num_heads.
        num_heads: attention heads per block.
        num_layers: blocks.
        dropout: probability of zeroing, at the embedding, in attention and before each residual.
        use_bias: biases in linear layers and norms (the head has none).
        tie_weights: the head shares the token embedding's matrix (Press & Wolf, 2017).

    Raises ValueError or TypeError naming the field that is wrong.
    """

    vocabulary_size: int
    context_size: int
    embedding_dim: int
    num_heads: int
    num_layers: int
    dropout: float = 0.0
    use_bias: bool = True
    tie_weights: bool = True

    def __post_init__(self) -> None:
        for name in (
            "vocabulary_size",
            "context_size",
            "embedding_dim",
            "num_heads",
            "num_layers",
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise TypeError(f"GPTConfig: {name} must be an int, got {value!r}")
            if value < 1:
                raise ValueError(f"GPTConfig: {name} must be at least 1, got {value}")
        if self.embedding_dim % self.num_heads:
            raise ValueError(
                f"GPTConfig: embedding_dim must be a multiple of num_heads, "
                f"got {self.embedding_dim} and {self.num_heads}"
            )
        if isinstance(self.dropout, bool) or not isinstance(self.dropout, (int, float)):
            raise TypeError(f"GPTConfig: dropout must be a number, got {self.dropout!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"GPTConfig: dropout must be in [0, 1), got {self.dropout}")
        for name in ("use_bias", "tie_weights"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"GPTConfig: {name} must be a bool, got {getattr(self, name)!r}")

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-able values: ``GPTConfig(**config.to_dict()) == config``."""
        return asdict(self)


class GPTCache:
    """Keys and values of every block, for decoding: ``model(ids, cache=cache)`` appends."""

    def __init__(self, layers: list[KeyValueCache]):
        self.layers = layers

    @property
    def length(self) -> int:
        """How many positions are filled."""
        return self.layers[0].length

    def reset(self) -> None:
        """Forgets everything; the memory is reused."""
        for layer in self.layers:
            layer.length = 0


class GPT(Module):
    """A GPT with float32 parameters drawn from ``seed``; ``precision`` is "float32" or "bf16"
    (see `Module.precision`).

    Weights start as N(0, 0.02²), those that write into the residual stream scaled down by
    1/sqrt(2 * num_layers) (Radford et al., 2019, section 2.3); biases at zero.

        logits = model(ids)                 # ids (B, T) int64 -> (B, T, V)
        loss = model.loss(ids, targets)     # targets (B, T) int64 -> 0-d array
        model.backward()                    # adds the loss's gradient to every Param.grad

    With ``recompute`` a forward pass keeps of each block its input alone, and ``backward`` runs the
    block once more (Chen et al., "Training deep nets with sublinear memory cost", 2016): the same
    bits for a third more time, and the activations of one block in memory instead of all.
    """

    def __init__(
        self,
        config: GPTConfig,
        seed: int = 0,
        precision: str = "float32",
        recompute: bool = False,
    ):
        self.config = config
        self.recompute = recompute
        self.generator = Generator(seed)
        rng = np.random.default_rng(seed)
        C, V = config.embedding_dim, config.vocabulary_size
        self.tokens = Embedding(V, C, rng)
        self.positions = Embedding(config.context_size, C, rng)
        self.dropout = Dropout(config.dropout, self.generator)
        self.blocks = [
            Block(
                C,
                config.num_heads,
                config.dropout,
                config.use_bias,
                self.generator,
                rng,
                residual_std=0.02 / math.sqrt(2 * config.num_layers),
            )
            for _ in range(config.num_layers)
        ]
        self.norm = LayerNorm(C, config.use_bias)
        self.head = Linear(C, V, bias=False, rng=rng, std=0.02)
        if config.tie_weights:
            self.head.weight = self.tokens.weight
        self._positions_on_gpu: dict[tuple[int, ...], Array] = {}
        self.precision = precision
        self._flatten()

    def forward(self, ids: Array, cache: GPTCache | None = None) -> Array:
        """Logits (B, T, V) of the token that follows each position.

        With a cache, ``ids`` continue what is in it and only their logits are computed; that keeps
        nothing for a backward pass. Raises ValueError for a wrong shape or more tokens than the
        context holds, TypeError for ids that are not int64, IndexError for an unknown id.
        """
        if cache is None:
            with self._forget_on_error():
                return self.head(self._trunk(ids, None))
        with self.no_save():
            return self.head(self._trunk(ids, cache))

    def _trunk(self, ids: Array, cache: GPTCache | None) -> Array:
        """All but the head: ids (B, T) -> (B, T, C)."""
        start = 0 if cache is None else cache.length
        self._check_ids("ids", ids, start)
        positions = self._positions_of(ids, start)
        x = self.dropout(self.positions(positions, add=self.tokens(ids)))
        for i, block in enumerate(self.blocks):
            if self.recompute and self._saving:
                self.push((x, self.generator.count))
                with block.no_save():
                    x = block(x)
            else:
                x = block(x, None if cache is None else cache.layers[i])
        return self.norm(x)

    def _positions_of(self, ids: Array, start: int) -> Array:
        """start, start + 1, ... in every row, int64 as ids (B, T); on a GPU made once a shape."""
        B, T = ids.shape
        if not backend.is_cupy(ids):
            return np.tile(np.arange(start, start + T), (B, 1))
        key = (B, T, ids.device.id)
        made = self._positions_on_gpu.get(key) if start == 0 else None
        if made is None:
            made = backend.to_device_of(np.tile(np.arange(start, start + T), (B, 1)), ids)
            if start == 0:  # in decoding each token has another start
                self._positions_on_gpu[key] = made
        return made

    def backward_logits(self, dlogits: Array) -> None:
        """The backward pass of ``forward``: adds to every Param.grad. dlogits (B, T, V)."""
        self._backward_trunk(self.head.backward(dlogits))

    def _backward_trunk(self, dy: Array) -> None:
        d = self.norm.backward(dy)
        for block in reversed(self.blocks):
            if self.recompute:
                x, draws = self.pop()
                with self.generator.again_from(draws):
                    block(x)
            d = block.backward(d)
        d = self.dropout.backward(d)
        self.positions.backward(d)
        self.tokens.backward(d)

    def loss(self, ids: Array, targets: Array, dloss: float = 1.0) -> Array:
        """Mean cross-entropy in nats over all positions, a 0-d array.

        ids, targets: (B, T) int64; a target of -100 is ignored. ``backward`` adds ``dloss`` times
        the gradient to every Param.grad. The head's share of it is added here already, unless
        nothing is saved: its logits never exist as a whole, so nothing else could come back to
        them. A loss that will have no backward pass is undone by ``discard_saved`` and
        ``zero_grad``; one that was refused has added nothing.
        """
        self._check_targets(ids, targets)
        weight = self.head.weight
        with self._forget_on_error():
            loss, dx = linear_cross_entropy.forward(
                self._trunk(ids, None),
                weight.operand,
                targets,
                weight.grad if self._saving else None,
                need_dx=self._saving,
                dloss=dloss,
                bf16=self._bf16,
            )
            self.push(dx)
        return loss

    def backward(self) -> None:
        """Adds to every Param.grad what the last ``loss`` has not added yet."""
        self._backward_trunk(self.pop())

    def new_cache(self, batch_size: int = 1) -> GPTCache:
        """An empty key-value cache for ``batch_size`` sequences of up to context_size tokens."""
        c = self.config
        like = self.tokens.weight.operand
        return GPTCache(
            [
                KeyValueCache(
                    batch_size, c.context_size, c.num_heads, c.embedding_dim // c.num_heads, like
                )
                for _ in range(c.num_layers)
            ]
        )

    def _check_ids(self, name: str, ids: Any, start: int = 0) -> None:
        if not isinstance(ids, np.ndarray) and not backend.is_cupy(ids):
            raise TypeError(f"GPT: {name} must be an int64 array, got {type(ids).__name__}")
        if ids.dtype != np.int64:
            raise TypeError(f"GPT: {name} must be int64, got {ids.dtype}")
        if ids.ndim != 2:
            raise ValueError(f"GPT: {name} must have shape (B, T), got {ids.shape}")
        if start + ids.shape[1] > self.config.context_size:
            held = f" after the {start} in the cache" if start else ""
            raise ValueError(
                f"GPT: {ids.shape[1]} tokens{held} do not fit the context of "
                f"{self.config.context_size}"
            )

    def _check_targets(self, ids: Any, targets: Any) -> None:
        self._check_ids("ids", ids)
        self._check_ids("targets", targets)
        if targets.shape != ids.shape:
            raise ValueError(
                f"GPT: targets must have the shape of ids, {ids.shape}, got {targets.shape}"
            )

    @contextmanager
    def _forget_on_error(self) -> Iterator[None]:
        """An interrupted forward pass leaves half-filled stacks: drop them."""
        try:
            yield
        except BaseException:
            self.discard_saved()
            raise
