"""Which items of a data set make the next batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from byhand.errors import UserError
from byhand.values import require_whole_number

Indices = npt.NDArray[np.int64]


class Sampler(Protocol):
    """An endless iterator over the indices of batches, whose state can be saved."""

    batch_size: int

    def __next__(self) -> Indices:
        """The indices of the next batch (B,), B at most `batch_size`."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that the coming batches depend on, as JSON data."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was called. UserError if the state is that of another
        sampler, or damaged; in that case nothing is changed.
        """
        ...


class RandomSampler:
    """Draws `batch_size` of `length` items at a time, uniformly and with replacement.

    With replacement there are no passes over the data and no last, smaller batch.
    """

    def __init__(self, length: int, batch_size: int, seed: int = 0) -> None:
        _require_numbers(length, batch_size, seed)
        self.length = length
        self.batch_size = batch_size
        self._random = np.random.Generator(np.random.PCG64(seed))

    def __iter__(self) -> RandomSampler:
        return self

    def __next__(self) -> Indices:
        """The indices of the next batch: int64 of shape (batch_size,), each in 0..length-1."""
        return self._random.integers(self.length, size=self.batch_size)

    def state_dict(self) -> dict[str, Any]:
        """See `Sampler`."""
        return {
            "length": self.length,
            "batch_size": self.batch_size,
            "random": self._random.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Sampler`."""
        _require_same(state, {"length": self.length, "batch_size": self.batch_size})
        drawn = np.random.PCG64()
        try:
            drawn.state = state["random"]
        except (KeyError, TypeError, ValueError, OverflowError):
            raise _damaged() from None
        if drawn.state != state["random"]:  # NumPy takes some numbers that no generator has
            raise _damaged()
        self._random = np.random.Generator(drawn)


class EpochSampler:
    """Passes over `length` items, each in another shuffled order, `batch_size` items at a time.

    In one pass (epoch) every item comes once. The last batch of a pass is smaller if the batch size
    does not divide the length; with `drop_last` it is left out, and so are its items.

    Attributes:
        epoch: the pass that the last batch belongs to, from 0.
    """

    def __init__(
        self, length: int, batch_size: int, seed: int = 0, drop_last: bool = False
    ) -> None:
        _require_numbers(length, batch_size, seed)
        if drop_last and length < batch_size:
            raise UserError(
                f"{length} items are too few for a batch of {batch_size}, and drop_last is set"
            )
        self.length = length
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.epoch = 0
        self._seed = seed
        self._position = 0  # in this epoch's order
        self._order = self._shuffled()

    @property
    def batches_per_epoch(self) -> int:
        """How many batches one pass has."""
        whole, rest = divmod(self.length, self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> EpochSampler:
        return self

    def __next__(self) -> Indices:
        """The indices of the next batch: int64 of shape (B,), B at most `batch_size`."""
        needed = self.batch_size if self.drop_last else 1
        if self.length - self._position < needed:
            self.epoch += 1
            self._position = 0
            self._order = self._shuffled()
        start = self._position
        self._position = min(start + self.batch_size, self.length)
        return self._order[start : self._position].copy()

    def state_dict(self) -> dict[str, Any]:
        """See `Sampler`."""
        return {
            "length": self.length,
            "batch_size": self.batch_size,
            "drop_last": self.drop_last,
            "seed": self._seed,
            "epoch": self.epoch,
            "position": self._position,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Sampler`."""
        own = {"length": self.length, "batch_size": self.batch_size, "drop_last": self.drop_last}
        _require_same(state, own)
        numbers: list[Any] = [state.get(name) for name in ("seed", "epoch", "position")]
        if not all(isinstance(n, int) and n >= 0 for n in numbers) or numbers[2] > self.length:
            raise _damaged()
        self._seed, self.epoch, self._position = numbers
        self._order = self._shuffled()

    def _shuffled(self) -> Indices:
        """The order of this epoch, which depends on the seed and the epoch alone."""
        return np.random.default_rng([self._seed, self.epoch]).permutation(self.length)


def _require_numbers(length: int, batch_size: int, seed: int) -> None:
    require_whole_number("the number of items", length)
    if length < 1:
        raise UserError(f"there is nothing to sample from: {length} items")
    require_whole_number("the batch size", batch_size, 1)
    require_whole_number("the seed", seed, 0)


def _require_same(state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """UserError unless the state is that of a sampler with these attributes."""
    if not isinstance(state, Mapping) or not own.keys() <= state.keys():
        raise _damaged()
    for name, value in own.items():
        if state[name] != value:
            raise UserError(f"the saved sampler has {name} {state[name]}, this one {value}")


def _damaged() -> UserError:
    return UserError("the saved state of the sampler is damaged")
