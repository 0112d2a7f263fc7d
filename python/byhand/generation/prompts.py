"""Prompts: from what a user gives to one array of token ids a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from byhand.errors import UserError

Row = npt.NDArray[np.int64]


def read_prompts(
    ids: Any,
    vocabulary_size: int,
    lengths: Any = None,
    pad_token_id: int | None = None,
    eos_ids: Sequence[int] = (),
) -> list[Row]:
    """The rows of a batch of prompts, each (T,) int64 without padding.

    Args:
        ids: one prompt (T,), a list of prompts of any lengths, or an array (B, T).
        lengths: (B,), how many tokens of each row of an array (B, T) are its prompt; what follows
            is padding.
        pad_token_id: without lengths, this token at the left of a row of an array (B, T) is
            padding.
        eos_ids: a pad_token_id that is one of them could be a text's first token too, so a row that
            begins with it is refused.

    UserError for text, an empty batch or prompt, ids that are no integers or outside the
    vocabulary, and padding on the right without lengths.
    """
    rows, padded = _rows(ids)
    if lengths is not None:
        rows = _cut(rows, lengths, padded)
    elif padded and pad_token_id is not None:
        rows = [_without_padding(n, row, pad_token_id, eos_ids) for n, row in enumerate(rows)]
    many = len(rows) > 1
    for number, row in enumerate(rows):
        where = f"prompt {number}" if many else "the prompt"
        if not row.size:
            raise UserError(
                f"a prompt is a sequence of at least one token id, and {where} has none"
            )
        outside = (row < 0) | (row >= vocabulary_size)
        if outside.any():
            position = int(outside.argmax())
            raise UserError(
                f"token id {row[position]} at position {position} of {where} is outside the "
                f"vocabulary 0..{vocabulary_size - 1}"
            )
    return [np.ascontiguousarray(row, np.int64) for row in rows]


def _rows(ids: Any) -> tuple[list[Any], bool]:
    """The rows, and whether they come from an array (B, T), which may have padding."""
    if isinstance(ids, str) or (
        isinstance(ids, (list, tuple)) and any(isinstance(one, str) for one in ids)
    ):
        raise UserError("a prompt is a sequence of token ids, not text: use the tokenizer's encode")
    if hasattr(ids, "get"):  # a cupy array
        ids = ids.get()
    several = isinstance(ids, (list, tuple)) and any(np.ndim(one) for one in _safe(ids))
    if several:
        rows = [_integers(one) for one in ids]
        if any(row.ndim != 1 for row in rows):
            raise _wrong(np.asarray(rows[0]))
        return rows, False
    array = _integers(ids)
    if array.ndim == 2 and len(array):
        return list(array), True
    if array.ndim != 1 or not array.size:
        raise _wrong(array)
    return [array], False


def _safe(ids: Any) -> list[Any]:
    """The entries as arrays, lists of different lengths as arrays of objects."""
    return [np.asarray(one, object) if isinstance(one, (list, tuple)) else one for one in ids]


def _integers(ids: Any) -> Any:
    try:
        array = np.asarray(ids)
    except ValueError:  # lists of different lengths
        array = np.asarray(ids, dtype=object)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise _wrong(array)
    return array


def _wrong(array: Any) -> UserError:
    return UserError(
        "a prompt is a sequence of at least one token id (integers of shape (T,), or (B, T) for "
        f"several), not {array.dtype} of shape {array.shape}"
    )


def _cut(rows: list[Any], lengths: Any, padded: bool) -> list[Any]:
    if not padded:
        raise UserError("lengths are for prompts in one array (B, T)")
    counts = np.asarray(lengths)
    if counts.shape != (len(rows),) or not np.issubdtype(counts.dtype, np.integer):
        raise UserError(
            f"lengths must be integers of shape ({len(rows)},), not {counts.dtype} of shape "
            f"{counts.shape}"
        )
    width = len(rows[0])
    if wrong := [int(n) for n in counts if not 1 <= n <= width]:
        raise UserError(f"lengths must be from 1 to {width}, the width of the rows, not {wrong[0]}")
    return [row[:n] for row, n in zip(rows, counts, strict=True)]


def _without_padding(number: int, row: Any, pad: int, eos_ids: Sequence[int]) -> Any:
    if row.size and row[0] == pad and pad in eos_ids:
        raise UserError(
            f"prompt {number} begins with token {pad}, which is both pad_token_id and an "
            "eos_token_id: give the prompts as a list without padding, or with lengths"
        )
    text = np.flatnonzero(row != pad)
    if not text.size:
        raise UserError(f"prompt {number} consists of padding")
    if text[-1] < len(row) - 1 and pad not in eos_ids:
        raise UserError(
            f"prompt {number} has padding on the right: give lengths, or pad on the left"
        )
    return row[text[0] :]
