"""The interface of data sets."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Batch = dict[str, npt.NDArray[Any]]  # name -> array whose first axis runs over the items


class Dataset(Protocol):
    """A number of items that are read in batches; a sampler chooses the items of each batch."""

    def __len__(self) -> int:
        """How many items there are."""
        ...

    def batch(self, indices: npt.NDArray[np.integer]) -> Batch:
        """The items at `indices` (B,), each in 0 .. len - 1, as arrays with B rows.

        IndexError if an index is out of range.
        """
        ...


def require_indices(indices: npt.NDArray[np.integer], length: int) -> None:
    """IndexError, with the first wrong index, unless all are in 0 .. length - 1. Negative ones are
    out of range too.
    """
    outside = (indices < 0) | (indices >= length)
    if outside.any():
        raise IndexError(
            f"index {indices[outside.argmax()]} is outside a data set of {length} items"
        )
