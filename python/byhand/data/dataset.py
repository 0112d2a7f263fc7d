"""The interface of data sets."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from byhand.errors import UserError

Batch = dict[str, npt.NDArray[Any]]  # name -> array whose first axis runs over the items


class Dataset(Protocol):
    """A number of items that are read in batches; a sampler chooses the items of each batch."""

    def __len__(self) -> int:
        """How many items there are."""
        ...

    def batch(self, indices: npt.ArrayLike) -> Batch:
        """The items at `indices` (B,), each in 0 .. len - 1, as arrays with B rows.

        UserError if they are not whole numbers of shape (B,), IndexError if one is out of range.
        """
        ...


def checked_indices(indices: npt.ArrayLike, length: int) -> npt.NDArray[np.integer]:
    """`indices`, an array or list of whole numbers (B,), as an array.

    UserError for anything else; IndexError, with the first wrong index, unless all are in
    0 .. length - 1. Negative ones are out of range too.
    """
    array = np.asarray(indices)
    if array.shape == (0,):
        return array.astype(np.int64)  # an empty list has no dtype of its own
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise UserError(
            f"the indices of a batch must be whole numbers of shape (B,), not {array.dtype} of "
            f"shape {array.shape}"
        )
    outside = (array < 0) | (array >= length)
    if outside.any():
        raise IndexError(f"index {array[outside.argmax()]} is outside a data set of {length} items")
    return array
