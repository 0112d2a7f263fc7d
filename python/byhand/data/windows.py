"""Windows of a long sequence of tokens, each with itself shifted by one as the target."""

from __future__ import annotations

import numbers
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from byhand.data.dataset import Batch, Dataset, checked_indices
from byhand.errors import UserError
from byhand.values import require_whole_number

Ids = npt.NDArray[np.int64]


def split(ids: npt.NDArray[np.integer], ratio: float) -> tuple[npt.NDArray, npt.NDArray]:
    """The training and the validation part of `ids` (n,): the last `ratio` of it is for validation.

    The cut is by position, not shuffled: neighbouring windows overlap, so a shuffled split would
    validate on text that was trained on.
    """
    if isinstance(ratio, bool) or not isinstance(ratio, numbers.Real) or not 0.0 < ratio < 1.0:
        raise UserError(
            f"the validation ratio must be greater than 0 and less than 1, not {ratio!r}"
        )
    cut = int(len(ids) * (1.0 - ratio))
    return ids[:cut], ids[cut:]


class WindowDataset:
    """Every window of `context` tokens; the target of a token is the token after it.

    Item i has "ids", `ids[i : i + context]`, and "targets", `ids[i + 1 : i + 1 + context]`: one
    window holds `context` predictions, each from all tokens before it.
    """

    def __init__(self, ids: npt.NDArray[np.integer], context: int, name: str = "the text") -> None:
        """`ids`: integers of shape (n,), n > context. `name` is for the error message."""
        require_whole_number("the context", context, 1)
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
            raise UserError(
                f"the ids must be one sequence of integers, not {ids.dtype} of shape {ids.shape}"
            )
        if len(ids) <= context:
            raise UserError(
                f"{name} has {len(ids)} tokens, and one window of context {context} needs "
                f"{context + 1}: take a longer text or a smaller context"
            )
        self.ids = ids
        self.context = context

    def __len__(self) -> int:
        return len(self.ids) - self.context

    def __getitem__(self, index: int) -> Batch:
        """One window: "ids" and "targets" of shape (context,)."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is outside a data set of {len(self)} items")
        return {name: rows[0] for name, rows in self.batch(np.array([index % len(self)])).items()}

    def batch(self, indices: npt.ArrayLike) -> Batch:
        """The windows at `indices` (B,): "ids" and "targets", int64 of shape (B, context)."""
        indices = checked_indices(indices, len(self))
        positions = indices[:, None] + np.arange(self.context + 1)
        windows = self.ids[positions].astype(np.int64, copy=False)
        return {
            "ids": np.ascontiguousarray(windows[:, :-1]),
            "targets": np.ascontiguousarray(windows[:, 1:]),
        }


class FramedWindows:
    """Every window of `width` - 2 tokens between [CLS] and [SEP]: rows for a `MaskedDataset`."""

    def __init__(
        self,
        ids: npt.NDArray[np.integer],
        cls: int,
        sep: int,
        width: int,
        name: str = "the text",
    ) -> None:
        """`ids`: integers of shape (n,), n >= width - 2. `name` is for the error message."""
        require_whole_number("the context", width, 3)
        self.inside = width - 2
        if len(ids) < self.inside:
            raise UserError(
                f"{name} has {len(ids)} tokens, and one window of context {width} needs "
                f"{self.inside}: take a longer text or a smaller context"
            )
        self.ids, self._cls, self._sep = ids, cls, sep

    def __len__(self) -> int:
        return len(self.ids) - self.inside + 1

    def batch(self, indices: npt.ArrayLike) -> Batch:
        """The windows at `indices` (B,): "ids", int64 (B, width)."""
        indices = checked_indices(indices, len(self))
        ids = np.empty((len(indices), self.inside + 2), np.int64)
        ids[:, 0], ids[:, -1] = self._cls, self._sep
        ids[:, 1:-1] = self.ids[indices[:, None] + np.arange(self.inside)]
        return {"ids": ids}


def consecutive_windows(
    ids: npt.NDArray[np.integer], context: int, batch_size: int, limit: int | None = None
) -> Iterator[Batch]:
    """Batches of windows laid end to end, in order, so that every token is predicted once.

    The last batch may hold fewer windows, and the end of the text comes as one window of its own,
    shorter than `context`. With `limit`, at most so many whole windows, spread evenly over the
    text, and no shorter one: the same windows on every call.
    """
    require_whole_number("the context", context, 1)
    require_whole_number("the batch size", batch_size, 1)
    if len(ids) < 2:
        raise UserError(f"a text of {len(ids)} tokens has no token to predict")
    count = taken = (len(ids) - 1) // context
    if limit is not None and 1 <= limit < count:
        taken = limit
    for first in range(0, taken, batch_size):
        numbers = np.arange(first, min(first + batch_size, taken)) * count // taken
        yield WindowDataset(ids, context).batch(numbers * context)
    rest = (len(ids) - 1) % context
    if rest and taken == count:
        yield WindowDataset(ids, rest).batch(np.array([len(ids) - 1 - rest]))


def num_batches(tokens: int, context: int, batch_size: int, limit: int | None = None) -> int:
    """How many batches `consecutive_windows` makes of a text of so many tokens."""
    count, rest = divmod(tokens - 1, context)
    if limit is not None and 1 <= limit < count:
        count, rest = limit, 0
    return -(-count // batch_size) + (rest > 0)


class TextData:
    """A text to train on: all windows of its beginning, and consecutive windows of its end to
    validate on.

    Attributes:
        train: the windows of the training part.
        training_ids, validation_ids: the ids of the two parts (k,) and (n - k,), in the dtype of
            the ids that were given. Batches are int64.
    """

    def __init__(
        self,
        ids: npt.NDArray[np.integer],
        context: int,
        batch_size: int,
        val_ratio: float = 0.1,
        eval_batches: int | None = None,
    ) -> None:
        """`ids`: the whole text (n,). Validation takes at most about `eval_batches` batches, spread
        over the validation part. UserError if one of the parts is too short for a window.
        """
        learn, self.validation_ids = split(ids, val_ratio)
        self.train: Dataset = WindowDataset(learn, context, "the training part of the text")
        self.training_ids = learn
        WindowDataset(self.validation_ids, context, "the validation part of the text")
        self._context = context
        self._batch_size = batch_size
        self._limit = None if eval_batches is None else eval_batches * batch_size

    def validation(self) -> Iterator[Batch]:
        """The validation batches, the same on every call."""
        return consecutive_windows(
            self.validation_ids, self._context, self._batch_size, self._limit
        )

    @property
    def num_validation_batches(self) -> int:
        """How many batches `validation` gives."""
        tokens = len(self.validation_ids)
        return num_batches(tokens, self._context, self._batch_size, self._limit)
