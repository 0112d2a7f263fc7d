"""The key-value caches of decoding."""

from __future__ import annotations

import numpy as np

from byhand import backend
from byhand.backend import Array
from byhand.ops import check


class KeyValueCache:
    """Keys and values of the positions seen so far, for decoding one token at a time.

    One per attention layer. ``keys`` and ``values`` are (B, capacity, G, D); of row b the first
    ``lengths[b]`` positions are filled (``lengths`` is a numpy array (B,) int64), and what follows
    is undefined. Rows of different lengths come from a right-padded prompt, after which
    ``set_lengths`` says how much of each row counts.
    """

    def __init__(self, batch: int, capacity: int, heads: int, head_dim: int, like: Array):
        shape = (batch, capacity, heads, head_dim)
        self.keys = backend.zeros(shape, like)
        self.values = backend.zeros(shape, like)
        self.lengths = np.zeros(batch, np.int64)

    @property
    def length(self) -> int:
        """The positions that the longest row has filled."""
        return int(self.lengths.max(initial=0))

    @property
    def ragged(self) -> bool:
        """Whether the rows have different lengths."""
        return bool((self.lengths != self.length).any())

    def positions(self, count: int) -> np.ndarray:
        """The positions (B, count) int64 of each row's next tokens."""
        return self.lengths[:, None] + np.arange(count)

    def extend(self, k: Array, v: Array) -> tuple[Array, Array]:
        """Appends k, v (B, T, G, D) to every row and returns views of all keys and values so far,
        (B, length, G, D). ValueError if they do not fit, in number or shape.
        """
        expected = (self.keys.shape[0], k.shape[1], *self.keys.shape[2:])
        for name, a in (("k", k), ("v", v)):
            if a.shape != expected:
                raise check.wrong_shape("KeyValueCache", name, expected, a)
        start, stop = self.length, self.length + k.shape[1]
        if stop > self.keys.shape[1]:  # a slice beyond the end would be empty, and take anything
            raise ValueError(
                f"KeyValueCache: {k.shape[1]} positions after the first {start} exceed its "
                f"capacity of {self.keys.shape[1]}"
            )
        if self.ragged:
            rows = backend.to_device_of(np.arange(len(self.lengths))[:, None], k)
            at = backend.to_device_of(self.positions(k.shape[1]), k)
            self.keys[rows, at] = k
            self.values[rows, at] = v
        else:
            self.keys[:, start:stop] = k
            self.values[:, start:stop] = v
        self.lengths = self.lengths + k.shape[1]
        return self.keys[:, :stop], self.values[:, :stop]

    def visible(self, queries: int, window: int | None = None) -> np.ndarray:
        """Which keys the last ``queries`` tokens of each row may attend to: (B, 1, queries, length)
        bool, those of its own row up to itself, less than ``window`` positions away.
        """
        own = self.lengths[:, None] - queries + np.arange(queries)
        distance = own[:, None, :, None] - np.arange(self.length)
        return (distance >= 0) & (distance < (window or np.inf))

    def select(self, rows: np.ndarray) -> None:
        """Keeps these rows (R,), in this order; a row may be repeated or left out."""
        filled, index = self.length, backend.to_device_of(rows, self.keys)
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = backend.empty((len(rows), *old.shape[1:]), old)
            new[:, :filled] = old[index, :filled]
            setattr(self, name, new)
        self.lengths = self.lengths[rows]

    def replace(self, rows: np.ndarray, other: KeyValueCache) -> None:
        """Puts the rows of ``other``, as many as ``rows`` (R,), in place of these rows."""
        filled, index = other.length, backend.to_device_of(rows, self.keys)
        self.keys[index, :filled] = other.keys[:, :filled]
        self.values[index, :filled] = other.values[:, :filled]
        self.lengths = self.lengths.copy()
        self.lengths[rows] = other.lengths


class DecoderCache:
    """Keys and values of every block of a decoder: ``model(ids, cache=cache)`` appends."""

    def __init__(self, layers: list[KeyValueCache]):
        self.layers = layers

    @property
    def length(self) -> int:
        """How many positions the longest row has filled."""
        return self.layers[0].length

    @property
    def lengths(self) -> np.ndarray:
        """How many positions each row has filled, (B,) int64."""
        return self.layers[0].lengths

    @property
    def ragged(self) -> bool:
        """Whether the rows have different lengths."""
        return self.layers[0].ragged

    def set_lengths(self, lengths: np.ndarray) -> None:
        """Keeps of row b the first ``lengths[b]`` positions, at most those that are filled: after a
        right-padded prompt, or to take tokens back.
        """
        for layer in self.layers:
            layer.lengths = np.asarray(lengths, np.int64)

    def select(self, rows: np.ndarray) -> None:
        """Keeps these rows (R,), in this order; a row may be repeated or left out."""
        for layer in self.layers:
            layer.select(rows)

    def replace(self, rows: np.ndarray, other: DecoderCache) -> None:
        """Puts the rows of ``other``, as many as ``rows`` (R,), in place of these rows."""
        for layer, new in zip(self.layers, other.layers, strict=True):
            layer.replace(rows, new)

    def reset(self) -> None:
        """Empties the cache; its memory is reused."""
        self.set_lengths(np.zeros_like(self.lengths))
