"""Random numbers for the initial values of parameters and for dropout masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from byhand import backend
from byhand.backend import Array
from byhand.ops.philox import Offset


def named_rng(seed: int, name: str) -> np.random.Generator:
    """The random numbers of the parameter called ``name`` in a model built with ``seed``.

    They depend on nothing else, so a parameter starts with the same values whatever other
    parameters the model has. Raises ValueError for a negative seed.
    """
    import hashlib

    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    digest = hashlib.sha256(name.encode()).digest()
    words = [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4)]
    return np.random.default_rng([seed, *words])


class Generator:
    """A counter-based random number generator for dropout: the backward pass draws the same mask
    again, so masks are never stored.

    Each draw gets an offset of its own; ``(seed, offset)`` determines the mask. Inside
    ``offset_from(start)`` offsets are relative to ``start``, a 0-d int64 array on the device, so a
    CUDA graph captured there draws new masks when the number in ``start`` changes.
    """

    def __init__(self, seed: int = 0):
        self.seed = int(seed) % 2**64
        self.count = 0
        self._start: tuple[int, Array] | None = None

    def next(self) -> tuple[int, Offset]:
        """The (seed, offset) of the next mask."""
        self.count += 1
        if self._start is None:
            return self.seed, self.count - 1
        before, start = self._start
        return self.seed, (self.count - 1 - before, start)

    @contextmanager
    def offset_from(self, start: Array) -> Iterator[None]:
        """Copies the count to ``start`` and makes offsets relative to it in the ``with`` block."""
        backend.copy_to(start, np.array(self.count, np.int64))
        self._start = self.count, start
        try:
            yield
        finally:
            self._start = None

    @contextmanager
    def replay_from(self, count: int) -> Iterator[None]:
        """Repeats the masks from this count on inside the ``with`` block."""
        before, self.count = self.count, count
        try:
            yield
        finally:
            self.count = before

    def state_dict(self) -> dict[str, int]:
        return {"seed": self.seed, "count": self.count}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.seed, self.count = int(state["seed"]), int(state["count"])
