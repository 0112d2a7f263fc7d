"""The key-value caches of decoding."""

from __future__ import annotations

import numpy as np

from byhand import backend
from byhand.backend import Array
from byhand.ops import check

_FIRST = 64  # positions for which there is memory at first; it is doubled when it is full


class KeyValueCache:
    """Keys and values of the positions seen so far, for decoding one token at a time.

    One per attention layer, for up to ``capacity`` positions of B rows. Of row b the first
    ``lengths[b]`` positions are filled (``lengths`` is a numpy array (B,) int64, to be assigned and
    not changed in place), and what follows is undefined. Rows of different lengths come from a
    right-padded prompt, after which ``lengths`` says how much of each row counts.
    """

    def __init__(self, batch: int, capacity: int, heads: int, head_dim: int, like: Array):
        self.capacity = capacity
        # The positions of a head are side by side in memory: attention reads them one head after
        # the other.
        shape = (batch, heads, min(capacity, _FIRST), head_dim)
        self._keys = backend.zeros(shape, like)
        self._values = backend.zeros(shape, like)
        self.lengths = np.zeros(batch, np.int64)

    @property
    def keys(self) -> Array:
        """A view (B, S, G, D) of the positions for which there is memory now."""
        return self._keys.swapaxes(1, 2)

    @property
    def values(self) -> Array:
        """The same of the values."""
        return self._values.swapaxes(1, 2)

    @property
    def lengths(self) -> np.ndarray:
        """The positions that each row has filled."""
        return self._lengths

    @lengths.setter
    def lengths(self, lengths: np.ndarray) -> None:
        self._lengths = lengths
        self.length = int(lengths.max(initial=0))
        """The positions that the longest row has filled."""
        self.ragged = bool((lengths != self.length).any())
        """Whether the rows have different lengths."""

    def positions(self, count: int) -> np.ndarray:
        """The positions (B, count) int64 of each row's next tokens."""
        return self.lengths[:, None] + np.arange(count)

    def extend(self, k: Array, v: Array) -> tuple[Array, Array]:
        """Appends k, v (B, T, G, D) to every row and returns views of all keys and values so far,
        (B, length, G, D). ValueError if they do not fit, in number or shape.
        """
        batch, heads, _, depth = self._keys.shape
        expected = (batch, k.shape[1], heads, depth)
        for name, a in (("k", k), ("v", v)):
            if a.shape != expected:
                raise check.wrong_shape("KeyValueCache", name, expected, a)
        start, stop = self.length, self.length + k.shape[1]
        if stop > self.capacity:
            raise ValueError(
                f"KeyValueCache: {k.shape[1]} positions after the first {start} exceed its "
                f"capacity of {self.capacity}"
            )
        self._hold(stop)
        keys, values = self.keys, self.values
        if self.ragged:
            rows = backend.to_device_of(np.arange(len(self.lengths))[:, None], k)
            at = backend.to_device_of(self.positions(k.shape[1]), k)
            keys[rows, at] = k
            values[rows, at] = v
        else:
            keys[:, start:stop] = k
            values[:, start:stop] = v
        self._lengths = self._lengths + k.shape[1]
        self.length = stop
        return keys[:, :stop], values[:, :stop]

    def _hold(self, count: int) -> None:
        """Makes memory for so many positions."""
        held = self._keys.shape[2]
        if count <= held:
            return
        more = min(max(count, 2 * held), self.capacity)
        self._keys, self._values = (self._moved(a, more) for a in (self._keys, self._values))

    def _moved(self, a: Array, held: int, rows: Array | None = None) -> Array:
        """The filled positions (of these rows, in this order) in new memory for ``held``."""
        batch, heads, _, depth = a.shape
        made = backend.empty((batch if rows is None else len(rows), heads, held, depth), a)
        filled = a[:, :, : self.length]
        made[:, :, : self.length] = filled if rows is None else filled[rows]
        return made

    def select(self, rows: np.ndarray) -> None:
        """Keeps these rows (R,), in this order; a row may be repeated or left out."""
        index, held = backend.to_device_of(rows, self._keys), self._keys.shape[2]
        self._keys, self._values = (self._moved(a, held, index) for a in (self._keys, self._values))
        self.lengths = self.lengths[rows]

    def replace(self, rows: np.ndarray, other: KeyValueCache) -> None:
        """Puts the rows of ``other``, as many as ``rows`` (R,), in place of these rows."""
        filled, index = other.length, backend.to_device_of(rows, self._keys)
        self._hold(filled)
        self._keys[index, :, :filled] = other._keys[:, :, :filled]
        self._values[index, :, :filled] = other._values[:, :, :filled]
        lengths = self.lengths.copy()
        lengths[rows] = other.lengths
        self.lengths = lengths


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
