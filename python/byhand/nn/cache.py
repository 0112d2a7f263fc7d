"""The key-value caches of decoding."""

from __future__ import annotations

from byhand import backend
from byhand.backend import Array
from byhand.ops import check


class KeyValueCache:
    """Keys and values of the positions seen so far, for decoding one token at a time.

    One per attention layer. ``keys`` and ``values`` are (B, capacity, G, D); the first ``length``
    positions are filled.
    """

    def __init__(self, batch: int, capacity: int, heads: int, head_dim: int, like: Array):
        shape = (batch, capacity, heads, head_dim)
        self.keys = backend.zeros(shape, like)
        self.values = backend.zeros(shape, like)
        self.length = 0

    def extend(self, k: Array, v: Array) -> tuple[Array, Array]:
        """Appends k, v (B, T, G, D) and returns views of all keys and values so far. ValueError if
        they do not fit, in number or shape.
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
        self.keys[:, start:stop] = k
        self.values[:, start:stop] = v
        self.length = stop
        return self.keys[:, :stop], self.values[:, :stop]


class DecoderCache:
    """Keys and values of every block of a decoder: ``model(ids, cache=cache)`` appends."""

    def __init__(self, layers: list[KeyValueCache]):
        self.layers = layers

    @property
    def length(self) -> int:
        """How many positions are filled."""
        return self.layers[0].length

    def reset(self) -> None:
        """Empties the cache; its memory is reused."""
        for layer in self.layers:
            layer.length = 0
