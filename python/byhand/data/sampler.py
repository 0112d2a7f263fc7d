"""Which windows make the next batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from byhand.errors import UserError


class RandomSampler:
    """Draws `batch_size` of `length` windows at a time, uniformly and with replacement.

    With replacement there are no epochs and no last, smaller batch: every draw is like every other.
    An endless iterator; `state()` and `load_state()` let a later process go on with the same draws.
    """

    def __init__(self, length: int, batch_size: int, seed: int = 0) -> None:
        if length < 1:
            raise UserError(f"there is nothing to sample from: {length} windows")
        if batch_size < 1:
            raise UserError(f"the batch size must be at least 1, not {batch_size}")
        self.length = length
        self.batch_size = batch_size
        self._random = np.random.Generator(np.random.PCG64(seed))

    def __iter__(self) -> RandomSampler:
        return self

    def __next__(self) -> npt.NDArray[np.int64]:
        """The indices of the next batch: int64 of shape (batch_size,), each in 0..length-1."""
        return self._random.integers(self.length, size=self.batch_size)

    def state(self) -> dict[str, Any]:
        """Everything the coming draws depend on, as a dict for `json.dump`."""
        return {
            "length": self.length,
            "batch_size": self.batch_size,
            "random": self._random.bit_generator.state,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where `state()` was taken. UserError if it is not the state of a like sampler."""
        try:
            same = (state["length"], state["batch_size"]) == (self.length, self.batch_size)
            random = state["random"]
            if same:
                self._random.bit_generator.state = random
        except (KeyError, TypeError, ValueError, OverflowError):
            raise UserError("the saved state of the random sampler is damaged") from None
        if not same:
            raise UserError(
                f"the saved sampler drew {state['batch_size']} of {state['length']} windows, "
                f"this one draws {self.batch_size} of {self.length}"
            )
