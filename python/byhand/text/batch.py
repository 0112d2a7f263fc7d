"""Sequences of different lengths in one array, and cut to a length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from byhand.errors import UserError

Ids = npt.NDArray[np.int64]


def truncated(ids: Ids, length: int, direction: str) -> Ids:
    """At most `length` ids: without the last ones, or with direction "Left" without the first."""
    return ids[:length] if direction == "Right" else ids[max(len(ids) - length, 0) :]


def pair_lengths(first: int, second: int, length: int) -> tuple[int, int]:
    """How much is kept of two texts so that both have at most `length` tokens in all: tokens are
    taken from the longer one, as Hugging Face's "longest_first" does.
    """
    if first + second <= length:
        return first, second
    short, long = min(first, second), max(first, second)
    long = max(short, length - short)
    if short + long > length:
        short = length // 2
        long = short + length % 2
    return (short, long) if first <= second else (long, short)


def padded(rows: Sequence[Ids], pad: int, length: int | None, direction: str) -> tuple[Ids, Ids]:
    """The rows as one array (len(rows), n) filled with `pad`, and their lengths (len(rows),). n is
    `length`, or by default that of the longest.
    """
    lengths = np.array([len(row) for row in rows], np.int64)
    longest = int(lengths.max(initial=0))
    width = longest if length is None else length
    if longest > width:
        raise UserError(
            f"a text has {longest} tokens, more than max_length {width}: use truncation=True"
        )
    ids = np.full((len(rows), width), pad, np.int64)
    for out, row in zip(ids, rows, strict=True):
        if direction == "Right":
            out[: len(row)] = row
        else:
            out[width - len(row) :] = row
    return ids, lengths
