"""Sets of characters as ranges of code points, and the classes of characters that some sets tell
apart.
"""

from __future__ import annotations

import re
import sys
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain

import numpy as np
import numpy.typing as npt

# Ranges (first, last) of code points, ascending, that neither overlap nor touch.
Ranges = tuple[tuple[int, int], ...]

# Every character but the halves of surrogate pairs, which no UTF-8 text has.
ALL: Ranges = ((0, 0xD7FF), (0xE000, sys.maxunicode))


def union(*sets: Iterable[tuple[int, int]]) -> Ranges:
    """The characters that are in one of the sets or in several."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(chain.from_iterable(sets)):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)


def complement(ranges: Ranges) -> Ranges:
    """The characters that are not in the set."""
    gaps = []
    begin = 0
    for first, last in union(ranges, ((0xD800, 0xDFFF),)):
        if begin < first:
            gaps.append((begin, first - 1))
        begin = last + 1
    if begin <= sys.maxunicode:
        gaps.append((begin, sys.maxunicode))
    return tuple(gaps)


def intersection(a: Ranges, b: Ranges) -> Ranges:
    """The characters that are in both sets."""
    return complement(union(complement(a), complement(b)))


def contains(ranges: Ranges, code: int) -> bool:
    """Whether the character with this code point is in the set."""
    at = bisect_right(ranges, (code, sys.maxunicode)) - 1
    return at >= 0 and ranges[at][0] <= code <= ranges[at][1]


def of(characters: str) -> Ranges:
    """The set of these characters."""
    return union((ord(c), ord(c)) for c in characters)


@cache
def matching(pattern: str) -> Ranges:
    r"""The characters that the module `re` matches with a class such as r"\w"."""
    every = "".join(map(chr, chain.from_iterable(range(a, b + 1) for a, b in ALL)))
    found = (match.span() for match in re.finditer(f"{pattern}+", every))
    return union((ord(every[begin]), ord(every[end - 1])) for begin, end in found)


def classes(sets: Sequence[Ranges]) -> tuple[npt.NDArray[np.int32], list[int]]:
    """The coarsest division of the characters into classes, each inside or outside every set.

    Returns the class of every code point, (0x110000,), and a code point of each class.
    """
    edges = {0, sys.maxunicode + 1}
    for ranges in sets:
        edges.update(chain.from_iterable((first, last + 1) for first, last in ranges))
    begins = np.array(sorted(edges))
    inside = np.zeros((len(begins) - 1, len(sets)), bool)
    for column, ranges in enumerate(sets):
        for first, last in ranges:
            inside[np.searchsorted(begins, first) : np.searchsorted(begins, last + 1), column] = (
                True
            )
    _, example, number = np.unique(inside, axis=0, return_index=True, return_inverse=True)
    of_code = np.repeat(number.reshape(-1).astype(np.int32), np.diff(begins))
    return of_code, begins[example].tolist()
