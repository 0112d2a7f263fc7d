"""Several token sequences in a row, so that little of a batch is padding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from byhand.data.dataset import Batch, checked_indices
from byhand.data.sequences import SequenceDataset
from byhand.errors import UserError
from byhand.ops.check import IGNORED
from byhand.values import require_whole_number


def pack(
    sequences: Iterable[npt.ArrayLike], length: int, pad: int = 0
) -> dict[str, npt.NDArray[np.int64]]:
    """Rows of ``length`` tokens with as many whole sequences as fit, for a language model.

    A sequence goes into the row with the least space that it fits into, the longest sequences first
    (best-fit decreasing: at most 11/9 of the fewest rows, and four more; Johnson et al., 1974).

    Args:
        sequences: token ids, each of 1 to ``length`` tokens.
        length: of a row, such as the model's context.
        pad: the id that fills up a row.

    Returns three arrays (rows, length) int64: "ids"; "targets", the following token of the same
    sequence, -100 for the last one and for padding; "sequences", the number of each position's
    sequence in its row, 0, 1, ..., padding being the last.

    UserError if there is no sequence, or for one that is empty, is not flat, or is too long.
    """
    require_whole_number("length", length, 1)
    listed = [np.asarray(sequence) for sequence in sequences]
    if not listed:
        raise UserError("there are no sequences to pack")
    for n, sequence in enumerate(listed):
        if sequence.ndim != 1 or sequence.dtype.kind not in "iu":
            raise UserError(f"sequence {n} must be a flat array of ids")
        if not 0 < len(sequence) <= length:
            raise UserError(f"sequence {n} has {len(sequence)} tokens, not 1 to {length}")
    rows = _best_fit([len(sequence) for sequence in listed], length)
    ids = np.full((len(rows), length), pad, np.int64)
    targets = np.full_like(ids, IGNORED)
    numbers = np.zeros_like(ids)
    for r, chosen in enumerate(rows):
        at = 0
        for number, n in enumerate(chosen):
            end = at + len(listed[n])
            ids[r, at:end] = listed[n]
            targets[r, at : end - 1] = listed[n][1:]
            numbers[r, at:end] = number
            at = end
        numbers[r, at:] = len(chosen)
    return {"ids": ids, "targets": targets, "sequences": numbers}


class PackedDataset:
    """The rows of a data set, as many in a row of ``width`` tokens as fit, see `pack`.

        PackedDataset(data.tagged(examples, tokenizer, 128), 128)      # for the head "tokens"
        MaskedDataset(PackedDataset(rows, 128), mask, size, special)   # for the head "mlm"

    A `byhand.Bert` keeps them apart by the field "sequences". Labels must be those of tokens.
    """

    def __init__(self, rows: SequenceDataset, width: int) -> None:
        """UserError if a row is longer than ``width``, or the rows have labels of whole rows."""
        require_whole_number("the width", width, 1)
        if (longest := int(rows.lengths.max())) > width:
            raise UserError(f"a row has {longest} tokens, which do not fit the width {width}")
        first = rows.batch([0])
        labels = first.get("labels", first["ids"])
        if labels.shape != first["ids"].shape or labels.dtype != np.int64:
            raise UserError(
                "rows with a label each cannot be packed, only rows with labels of tokens"
            )
        self.rows, self.width = rows, width
        self._packed = _best_fit(rows.lengths.tolist(), width)

    def __len__(self) -> int:
        return len(self._packed)

    def batch(self, indices: npt.ArrayLike) -> Batch:
        """Packed rows `indices` (B,): the fields of tokens (B, width) of the rows, "sequences"
        (B, width), the number of each token's row, and "lengths" (B,), the tokens that are no
        padding, all int64.
        """
        chosen = [self._packed[i] for i in checked_indices(indices, len(self)).tolist()]
        apart = self.rows.batch([n for row in chosen for n in row])
        each = apart.pop("lengths")
        inside = np.arange(apart["ids"].shape[1]) < each[:, None]
        numbers = np.array([i for row in chosen for i in range(len(row))], np.int64)
        apart["sequences"] = np.where(inside, numbers[:, None], 0)
        lengths = np.array([self.rows.lengths[row].sum() for row in chosen], np.int64)
        there = np.arange(self.width) < lengths[:, None]
        fills = {"ids": self.rows.pad, "labels": IGNORED}
        made: Batch = {"lengths": lengths}
        for name, a in apart.items():
            made[name] = np.full(there.shape, fills.get(name, 0), np.int64)
            made[name][there] = a[inside]
        # Padding is a sequence of its own: the numbers of a row never decrease.
        made["sequences"] += np.where(there, 0, np.array(list(map(len, chosen)))[:, None])
        return made


def _best_fit(lengths: Sequence[int], space: int) -> list[list[int]]:
    """Which sequences are in each row."""
    rows: list[list[int]] = []
    free: list[list[int]] = [[] for _ in range(space + 1)]  # the rows with so much space
    for n in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        left = next((s for s in range(lengths[n], space + 1) if free[s]), None)
        if left is None:
            left = space
            rows.append([])
            free[space].append(len(rows) - 1)
        row = free[left].pop()
        rows[row].append(n)
        free[left - lengths[n]].append(row)
    return rows
