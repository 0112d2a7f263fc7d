"""Windows of a long sequence of tokens, each paired with itself shifted by one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from byhand.errors import UserError

Ids = npt.NDArray[np.int64]


def split(ids: npt.NDArray[np.integer], ratio: float) -> tuple[npt.NDArray, npt.NDArray]:
    """Training and validation part of `ids`, shape (n,): the last `ratio` of it validates.

    The cut is by position, never shuffled: neighbouring windows overlap, and a shuffled split
    would validate on text that was trained on.
    """
    if not 0.0 < ratio < 1.0:
        raise UserError(f"the validation ratio must lie between 0 and 1, not {ratio}")
    cut = int(len(ids) * (1.0 - ratio))
    return ids[:cut], ids[cut:]


class WindowDataset:
    """Every window of `context` tokens; the target of a token is the token after it.

    Item i is the pair `ids[i : i + context]`, `ids[i + 1 : i + 1 + context]`, so that
    `y[t] == x[t + 1]`: one window holds `context` predictions, each from all tokens before it.
    """

    def __init__(self, ids: npt.NDArray[np.integer], context: int, name: str = "the text") -> None:
        """`ids`: whole numbers of shape (n,), n > context. `name` is for the error message."""
        if context < 1:
            raise UserError(f"the context must be at least 1 token, not {context}")
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
            raise UserError(
                f"a dataset is made of one sequence of ids, not {ids.dtype} of shape {ids.shape}"
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

    def __getitem__(self, index: int) -> tuple[Ids, Ids]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"window {index} of a dataset of {len(self)} windows")
        x, y = self.batch(np.array([index % len(self)]))
        return x[0], y[0]

    def batch(self, indices: npt.NDArray[np.integer]) -> tuple[Ids, Ids]:
        """Inputs and targets of the windows at `indices` (B,): two int64 arrays (B, context)."""
        if len(indices) and not (0 <= indices.min() and indices.max() < len(self)):
            raise IndexError(f"a window index is outside 0..{len(self) - 1}")
        positions = indices[:, None] + np.arange(self.context + 1)
        windows = self.ids[positions].astype(np.int64, copy=False)
        return np.ascontiguousarray(windows[:, :-1]), np.ascontiguousarray(windows[:, 1:])


def windows_side_by_side(
    ids: npt.NDArray[np.integer], context: int, batch_size: int, limit: int | None = None
) -> Iterator[tuple[Ids, Ids]]:
    """Batches (x, y) of windows laid end to end, in order: every token is predicted once.

    The last batch may hold fewer windows, and the end of the text comes as one window of its own,
    shorter than `context`. With `limit`, at most so many whole windows, spread evenly over the
    text, and no shorter one: the same windows on every call.
    """
    if context < 1 or batch_size < 1:
        raise UserError(f"context {context} and batch size {batch_size} must be at least 1")
    if len(ids) < 2:
        raise UserError(f"a text of {len(ids)} tokens holds nothing to predict")
    count = (len(ids) - 1) // context
    whole = np.arange(count) * context
    if limit is not None and 1 <= limit < count:
        whole = whole[np.arange(limit) * count // limit]
    for first in range(0, len(whole), batch_size):
        yield WindowDataset(ids, context).batch(whole[first : first + batch_size])
    rest = (len(ids) - 1) % context
    if rest and len(whole) == count:
        yield WindowDataset(ids, rest).batch(np.array([len(ids) - 1 - rest]))
