"""Data sets that are arrays in memory: tables, images, labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from byhand.data.dataset import Batch, checked_indices
from byhand.errors import UserError
from byhand.values import require_whole_number


class ArrayDataset:
    """Arrays whose rows belong together: item i is row i of each.

        ArrayDataset(x=features, y=labels).batch(np.array([4, 0]))     # {"x": ..., "y": ...}

    The arrays are kept, not copied; a batch is a copy.
    """

    def __init__(self, **arrays: npt.ArrayLike) -> None:
        """Each of `arrays` has shape (n, ...), with the same n. UserError if they differ."""
        if not arrays:
            raise UserError("a data set needs at least one array")
        self.arrays: dict[str, npt.NDArray[Any]] = {}
        for name, given in arrays.items():
            array = np.asarray(given)
            if array.ndim == 0:
                raise UserError(f"{name} must have rows, but it is a single value")
            self.arrays[name] = array
        first, *others = self.arrays
        for name in others:
            if len(self.arrays[name]) != len(self):
                raise UserError(
                    f"{first} has {len(self)} rows, but {name} has {len(self.arrays[name])}"
                )

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def batch(self, indices: npt.ArrayLike) -> Batch:
        """Rows `indices` (B,) of each array: {name: array of shape (B, ...)}."""
        indices = checked_indices(indices, len(self))
        return {name: np.ascontiguousarray(rows[indices]) for name, rows in self.arrays.items()}


def stratified_folds(
    labels: npt.ArrayLike, k: int, seed: int = 0
) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Shuffled stratified k-fold cross-validation: k pairs of training and test indices.

    Every index is in exactly one test part. The test parts differ by at most one in size, and by
    at most one in how many examples of each class they have (Kohavi, 1995). The indices of a part
    are in ascending order.

    Args:
        labels: the class of each example (n,), integers or strings.
        k: number of folds, at least 2.
        seed: the same seed gives the same folds.

    UserError if a class has fewer than k examples.
    """
    classes = np.asarray(labels)
    if classes.ndim != 1:
        raise UserError(f"labels must be one sequence, not an array of shape {classes.shape}")
    require_whole_number("the number of folds", k, 2)
    require_whole_number("the seed", seed, 0)
    names, class_of, counts = np.unique(classes, return_inverse=True, return_counts=True)
    if not len(names):
        raise UserError("there are no labels to divide into folds")
    if counts.min() < k:
        rare = counts.argmin()
        raise UserError(
            f"the class {names[rare]} has {counts[rare]} examples, too few for {k} folds"
        )
    # A random order, sorted by class: dealing it out to the folds in turn spreads every class.
    order = np.random.default_rng(seed).permutation(len(classes))
    order = order[np.argsort(class_of.reshape(-1)[order], kind="stable")]
    fold_of = np.empty(len(classes), np.int64)
    fold_of[order] = np.arange(len(classes)) % k
    return [(np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)) for fold in range(k)]
