"""Data sets of token sequences of different lengths, and batches of similar lengths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from byhand.data.dataset import Batch, checked_indices
from byhand.data.sampler import EpochSampler
from byhand.errors import UserError
from byhand.ops.check import IGNORED
from byhand.values import require_whole_number

Ids = npt.NDArray[np.int64]


class SequenceDataset:
    """Rows of token ids of different lengths, with what belongs to them.

        SequenceDataset([[2, 5, 3], [2, 3]], labels=[1, 0]).batch([0, 1])
        # {"ids": (2, 3) padded, "lengths": [3, 2], "labels": [1, 0]}

    Attributes:
        lengths: of the rows (n,), for `LengthSampler`.
    """

    def __init__(
        self,
        rows: Iterable[npt.ArrayLike],
        pad: int = 0,
        segments: Iterable[npt.ArrayLike] | None = None,
        labels: npt.ArrayLike | None = None,
        token_labels: Iterable[npt.ArrayLike] | None = None,
        width: int | None = None,
        name: str = "the data",
    ) -> None:
        """
        Args:
            rows: the ids of each row, at least one.
            pad: the id that fills rows up.
            segments: which text each token is of, for each row.
            labels: of the rows, (n,) or (n, k).
            token_labels: of the tokens of each row; padding has -100.
            width: of every batch, as a CUDA graph needs it; None: that of the longest row in it.
            name: for error messages.

        UserError names what does not fit.
        """
        self._ids, self.lengths = _joined(f"the ids of {name}", rows)
        if not len(self.lengths):
            raise UserError(f"{name} has no rows")
        if not self.lengths.all():
            raise UserError(f"row {self.lengths.argmin()} of {name} has no tokens")
        if width is not None and (longest := int(self.lengths.max())) > width:
            raise UserError(f"a row of {name} has {longest} tokens, more than {width}")
        self.pad, self.width = pad, width
        self._starts = np.cumsum(self.lengths) - self.lengths
        self._of_tokens = {"ids": (self._ids, pad)}
        for key, given, fill in (("segments", segments, 0), ("labels", token_labels, IGNORED)):
            if given is None:
                continue
            flat, lengths = _joined(f"the {key} of {name}", given)
            if not np.array_equal(lengths, self.lengths):
                raise UserError(f"the {key} of {name} have other lengths than its ids")
            self._of_tokens[key] = flat, fill
        self._labels = None if labels is None else np.asarray(labels)
        if self._labels is not None and len(self._labels) != len(self):
            raise UserError(f"{name} has {len(self)} rows, but {len(self._labels)} labels")

    def __len__(self) -> int:
        return len(self.lengths)

    def row(self, index: int) -> Ids:
        """The ids of one row (T,)."""
        start = self._starts[index]
        return self._ids[start : start + self.lengths[index]]

    def batch(self, indices: npt.ArrayLike) -> Batch:
        """Rows `indices` (B,): "ids" (B, T), "lengths" (B,) and, where given, "segments" and
        "labels", all int64 but labels of another dtype.
        """
        indices = checked_indices(indices, len(self))
        lengths = self.lengths[indices]
        width = self.width or int(lengths.max(initial=1))
        there = np.arange(width) < lengths[:, None]
        places = (self._starts[indices][:, None] + np.arange(width))[there]
        made: Batch = {}
        for key, (flat, fill) in self._of_tokens.items():
            made[key] = np.full((len(indices), width), fill, np.int64)
            made[key][there] = flat[places]
        made["lengths"] = lengths
        if self._labels is not None:
            made["labels"] = np.ascontiguousarray(self._labels[indices])
        return made


def _joined(what: str, rows: Iterable[npt.ArrayLike]) -> tuple[Ids, Ids]:
    """Rows of integers one after the other, and their lengths."""
    parts = [np.asarray(row) for row in rows]
    for i, part in enumerate(parts):
        if part.ndim != 1 or (part.size and not np.issubdtype(part.dtype, np.integer)):
            raise UserError(
                f"{what} must be sequences of whole numbers, but row {i} is {part.dtype} of shape "
                f"{part.shape}"
            )
    flat = np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)
    return flat, np.array([len(part) for part in parts], np.int64)


class LengthSampler(EpochSampler):
    """Passes over items of different lengths, in batches of similar lengths, so that little of a
    batch is padding.

    Each pass shuffles all items, sorts every `pool` batches of them by length, and shuffles the
    batches. State, `drop_last` and a smaller last batch are as in `EpochSampler`.
    """

    def __init__(
        self,
        lengths: npt.ArrayLike,
        batch_size: int,
        seed: int = 0,
        drop_last: bool = False,
        pool: int = 50,
    ) -> None:
        """`lengths`: of the items (n,). `pool`: more make batches more alike, and their order less
        random.
        """
        require_whole_number("the number of batches in a pool", pool, 1)
        self._lengths = np.asarray(lengths)
        self._pool = pool
        if self._lengths.ndim != 1:
            raise UserError(f"the lengths must have shape (n,), not {self._lengths.shape}")
        super().__init__(len(self._lengths), batch_size, seed, drop_last)

    def state_dict(self) -> dict[str, Any]:
        """See `Sampler`."""
        return {**super().state_dict(), "pool": self._pool}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Sampler`."""
        if isinstance(state, Mapping) and state.get("pool", self._pool) != self._pool:
            raise UserError(f"the saved sampler has pool {state['pool']}, this one {self._pool}")
        super().load_state_dict(state)

    def _shuffled(self) -> Ids:
        rng = np.random.default_rng([self._seed, self.epoch])
        order, size = rng.permutation(self.length), self._pool * self.batch_size
        pools = [order[i : i + size] for i in range(0, self.length, size)]
        order = np.concatenate([p[np.argsort(self._lengths[p], kind="stable")] for p in pools])
        whole = self.length // self.batch_size * self.batch_size
        batches = rng.permutation(order[:whole].reshape(-1, self.batch_size), axis=0)
        return np.concatenate([batches.reshape(-1), order[whole:]])
