"""Several token sequences in a row, so that little of a batch is padding."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from byhand.errors import UserError
from byhand.ops.check import IGNORED
from byhand.values import require_whole_number


def pack(
    sequences: Iterable[npt.ArrayLike], length: int, pad: int = 0
) -> dict[str, npt.NDArray[np.int64]]:
    """Rows of ``length`` tokens with as many whole sequences as fit, for a language model.

    A sequence goes into the first row that has space for it, the longest sequences first (first-fit
    decreasing: at most 11/9 of the fewest rows, and one more; Johnson, 1973).

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
    rows: list[list[int]] = []
    space: list[int] = []
    for n in sorted(range(len(listed)), key=lambda n: -len(listed[n])):
        row = next((r for r, free in enumerate(space) if free >= len(listed[n])), None)
        if row is None:
            row = len(rows)
            rows.append([])
            space.append(length)
        rows[row].append(n)
        space[row] -= len(listed[n])
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
