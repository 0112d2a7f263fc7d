"""What decoder-only language models share: ids -> decoder -> hidden states -> head -> logits.

A model's page gives its block and how ids become the first hidden states; the loss, the backward
pass, the key-value cache and the checks of ids and targets are here.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np

from byhand.backend import Array
from byhand.config import require_config
from byhand.models.block_stack import BlockStack
from byhand.nn import Embedding, KeyValueCache, Linear, Module, mode
from byhand.nn.cache import DecoderCache
from byhand.nn.positions import positions_within
from byhand.nn.protocol import contiguous, converted, require_ids, require_sizes
from byhand.ops import check, cross_entropy, linear_cross_entropy
from byhand.ops.check import IGNORED

_FORWARD = "forward"  # saved by a forward pass without a loss


class Sizes(Protocol):
    """What the configuration of every decoder-only language model has."""

    @property
    def vocabulary_size(self) -> int: ...
    @property
    def context_size(self) -> int: ...
    @property
    def tie_weights(self) -> bool: ...


C = TypeVar("C", bound=Sizes)


class Decoder(BlockStack):
    """ids (B, T) int64 -> hidden states (B, T, C): ``embed``, then the blocks, then ``norm``.

    A subclass sets ``tokens``, ``blocks`` (called as block(x, cache=..., sequences=...)) and
    ``norm`` (None: no norm after the last block), and writes ``embed`` and ``embed_backward``.
    """

    tokens: Embedding
    positions: Any = None  # a layer that adds them to the embeddings, where there is one
    norm: Any

    def __init__(self, config: Sizes, recompute: bool = False):
        self.config = config
        self.recompute = recompute

    _input_dtype = np.int64

    def _input_shape(self, batch: int) -> tuple[int, ...]:
        return batch, self.config.context_size

    def embed(self, ids: Array, start: int, positions: Array | None) -> Array:
        """The input of the first block, (B, T, C), for ids at positions start, start + 1, ..., or
        at ``positions`` (B, T) int64 where they are given.
        """
        raise NotImplementedError

    def embed_backward(self, d: Array) -> None:
        """The backward pass of ``embed``: adds to the gradients of its tables."""
        raise NotImplementedError

    def forward(
        self, ids: Array, cache: DecoderCache | None = None, sequences: Array | None = None
    ) -> Array:
        start = 0 if cache is None else cache.length
        self.check_ids("ids", ids, start)
        positions = None
        if sequences is not None:
            self._check_sequences(ids, sequences, cache)
            positions = positions_within(sequences) if self.positions is not None else None
        elif cache is not None and cache.ragged:
            positions = cache.layers[0].positions(ids.shape[1])
        x = self.embed(ids, start, positions)
        layers = None if cache is None else cache.layers
        x = self.through_blocks(x, layers, sequences=sequences)
        return x if self.norm is None else self.norm(x)

    def backward(self, dy: Array) -> None:
        d = dy if self.norm is None else self.norm.backward(dy)
        d = self.back_through_blocks(d)
        self.embed_backward(d)

    @property
    def _model(self) -> str:
        return type(self.config).__name__.removesuffix("Config")

    def check_ids(self, name: str, ids: Any, start: int = 0) -> None:
        """TypeError or ValueError unless ids are an int64 array (B, T) that fits the context after
        ``start`` earlier tokens.
        """
        require_ids(self._model, name, ids, self.config.context_size, start)

    def _check_sequences(self, ids: Array, sequences: Any, cache: DecoderCache | None) -> None:
        self.check_ids("sequences", sequences)
        if sequences.shape != ids.shape:
            raise ValueError(
                f"{self._model}: sequences must have the shape of ids, {ids.shape}, got "
                f"{sequences.shape}"
            )
        if cache is not None:
            raise ValueError(f"{self._model}: packed sequences cannot continue those in a cache")


class CausalLM(Module, Generic[C]):
    """A decoder and a head; the base class of the decoder-only language models.

        logits = model(ids)                 # ids (B, T) int64 -> (B, T, V)
        loss = model.loss(ids, targets)     # targets (B, T) int64 -> 0-d array
        model.backward()                    # adds the loss's gradient to every Parameter.grad

    The head starts as the token embedding does; with ``tie_weights`` it is the same matrix. A
    subclass names the classes of its configuration and of its decoder.
    """

    _parts: tuple[type[Any], type[Any]]
    _config: C
    decoder: Decoder
    head: Linear

    def __init__(
        self,
        config: C,
        seed: int = 0,
        precision: str = "float32",
        recompute: bool = False,
        draw: bool = True,
    ):
        kind, decoder = self._parts
        self._config = require_config(self._name, config, kind)
        self.decoder = decoder(config, recompute)
        table = self.decoder.tokens.weight
        assert table.init is not None
        size, width = table.shape
        self.head = Linear(width, size, False, weight_init=table.init)
        if config.tie_weights:
            self.head.weight = table
        self.precision = precision
        self.build(seed, draw=draw)

    @property
    def config(self) -> C:
        """The sizes that the model was made with; a model of other sizes is a new model."""
        return self._config

    @property
    def _name(self) -> str:
        return type(self).__name__

    def forward(
        self, ids: Array, cache: DecoderCache | None = None, sequences: Array | None = None
    ) -> Array:
        """Logits (B, T, V) of the token that follows each position.

        With a cache, ``ids`` continue the sequence in it, only their logits are computed, and
        nothing is saved for a backward pass. ``sequences`` (B, T) int64, never decreasing in a row,
        number several sequences that are packed in a row: no position sees another sequence, and
        the positions of each begin at 0. Raises ValueError for a wrong shape or more tokens
        than the context holds, TypeError for ids that are not int64, IndexError for an unknown id.
        """
        if cache is not None and not isinstance(cache, DecoderCache):
            raise TypeError(f"{self._name}: cache must be what new_cache() gives, got {cache!r}")
        if cache is None:
            with self.discard_on_error():
                logits = self.head(self.decoder(ids, None, sequences))
                self.push(_FORWARD)
                return logits
        with self.no_save() if self._saving else nullcontext():
            return self.head(self.decoder(ids, cache, sequences))

    _input_dtype = np.int64

    def _input_shape(self, batch: int) -> tuple[int, ...]:
        return batch, self.config.context_size

    def backward_logits(self, dlogits: Array) -> None:
        """The backward pass of ``forward``: adds to every Parameter.grad. dlogits (B, T, V)."""
        if self.peek() is not _FORWARD:
            raise RuntimeError(
                f"{self._name}.backward_logits: the last forward pass was loss(ids, targets), "
                "whose gradient backward() adds without an argument"
            )
        d = self.head.backward(dlogits)
        self.pop()
        self.decoder.backward(d)

    def loss(
        self, ids: Array, targets: Array, scale: Any = None, sequences: Array | None = None
    ) -> Array:
        """Mean cross-entropy in nats over the positions that count, a 0-d array.

        ids, targets: (B, T) int64; a target of -100 does not count. With ``scale``, a number or a
        0-d array, the result is the sum over these positions times the scale, as needed for a loss
        that is a mean over several batches. ``sequences`` as in ``forward``; the last token of each
        sequence should have the target -100.

        The gradient of the head is added here already (unless saving is off), because the logits
        never exist as a whole and ``backward`` could not use them later. If no backward pass will
        follow, call ``discard_saved`` and ``zero_grad``. A call that raises an error has added
        nothing.
        """
        (ids, targets, _, sequences), _ = converted(
            self._name, self.loss, (ids, targets, None, sequences), {}
        )
        self._check_targets(ids, targets)
        if getattr(scale, "shape", ()) != () or isinstance(scale, (str, list, tuple)):
            raise TypeError(f"{self._name}: scale must be a number or a 0-d array, got {scale!r}")
        reduction: Literal["mean", "sum"] = "mean" if scale is None else "sum"
        with self.discard_on_error():
            hidden = self.decoder(ids, None, sequences)
            plain = type(self.head) is Linear and self.head.bias is None
            if plain and mode.packed(self.head.weight) is None:
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
                f"{self._name}.backward: the last forward pass was model(ids), which has no loss: "
                "call model.loss(ids, targets) instead, or pass the gradient of the logits, "
                "backward(dlogits)"
            )
        self.decoder.backward(self.pop())

    def new_cache(self, batch_size: int = 1) -> DecoderCache:
        """An empty key-value cache for ``batch_size`` sequences of up to context_size tokens."""
        require_sizes(f"{self._name}.new_cache", batch_size=batch_size)
        like = self.decoder.tokens.weight.compute_value
        capacity = self.config.context_size
        layers = [block.attention for block in self.decoder.blocks]
        return DecoderCache(
            [KeyValueCache(batch_size, capacity, a.num_kv_heads, a.head_dim, like) for a in layers]
        )

    def generate(self, ids: Any, config: Any = None, **options: Any) -> np.ndarray:
        """The prompts and the tokens that follow them: int64 (B * num_return_sequences, T).

            model.generate(ids, max_new_tokens=100, do_sample=True, temperature=0.8, top_p=0.9)

        ids: (T,), (B, T), or a list of prompts. The settings are those of `GenerationConfig`, with
        Hugging Face's names; see `byhand.generation.generate` for the others and for the errors.
        """
        from byhand.generation import generate

        return generate(self, ids, config, **options)

    def check(self, ids: np.ndarray, targets: np.ndarray) -> None:
        """The errors of ``loss`` for ids and targets that are still on the host."""
        self._check_targets(ids, targets)
        check.ids(self._name, "ids", ids, self.config.vocabulary_size)
        check.ids(self._name, "targets", targets, self.config.vocabulary_size, IGNORED)

    def _check_targets(self, ids: Any, targets: Any) -> None:
        self.decoder.check_ids("ids", ids)
        self.decoder.check_ids("targets", targets)
        if targets.shape != ids.shape:
            raise ValueError(
                f"{self._name}: targets must have the shape of ids, {ids.shape}, "
                f"got {targets.shape}"
            )
