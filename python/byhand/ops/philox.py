"""Philox4x32-7, the counter-based generator behind dropout, in numpy.

Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), section 4.3;
seven rounds are the fewest of their table 2 that pass BigCrush. A key and a 128-bit counter give
four 32-bit words that depend on nothing else, so any element of a dropout mask
can be redrawn in any order, on any device, and the mask itself is never stored.

Here the key is the seed (low word, high word) and the counter is (group, offset), each 64 bits, low
word first. An element takes 16 bits, so group g holds the elements 8g .. 8g+7, two to a word, the
lower half first.
"""

from __future__ import annotations

import numpy as np

from byhand.backend import Array

Offset = int | tuple[int, Array]  # a pair stands for its sum when the kernel runs

_MULTIPLIER_0 = np.uint64(0xD2511F53)
_MULTIPLIER_1 = np.uint64(0xCD9E8D57)
_WEYL_0 = 0x9E3779B9  # the golden ratio
_WEYL_1 = 0xBB67AE85  # sqrt(3) - 1
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_ROUNDS = 7
ELEMENTS = 8  # of one group


def words(groups: Array, seed: int | Array, offset: int, rounds: int = _ROUNDS) -> Array:
    """The four words of every group: groups (n,) unsigned -> (n, 4) uint32. The seed is a number or
    (n,) uint64, one for each group.

    32-bit words are kept in 64-bit integers, so that the product of two never overflows.
    """
    groups = np.asarray(groups, np.uint64)
    c0, c1 = groups & _LOW, groups >> _32
    c2 = np.full_like(groups, offset & 0xFFFFFFFF)
    c3 = np.full_like(groups, offset >> 32)
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(rounds):
        p0, p1 = _MULTIPLIER_0 * c0, _MULTIPLIER_1 * c2
        c0, c1, c2, c3 = (
            (p1 >> _32) ^ c1 ^ np.uint64(k0),
            p1 & _LOW,
            (p0 >> _32) ^ c3 ^ np.uint64(k1),
            p0 & _LOW,
        )
        k0, k1 = (k0 + _WEYL_0) & 0xFFFFFFFF, (k1 + _WEYL_1) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def rule(p: float) -> tuple[int, float]:
    """(threshold, factor) of a dropout probability: an element is dropped when its 16 bits are
    below the threshold, and otherwise multiplied by the factor.

    The probability is rounded to the nearest multiple of 2^-16 (never 1), and the factor belongs to
    the rounded one, so that the mean is preserved exactly.
    """
    threshold = min(65535, int(p * 65536.0 + 0.5))
    return threshold, 65536.0 / (65536.0 - threshold)


def keep(rows: int, columns: int, p: float, seed: int, offset: int) -> Array:
    """Which elements survive dropout: (rows, columns) bool, False with probability p.

    Each row starts a new group, so a kernel can compute one row without the others.
    """
    groups = -(-columns // ELEMENTS)
    drawn = words(np.arange(rows * groups), seed, offset)
    halves = np.stack([drawn & 0xFFFF, drawn >> 16], axis=-1).reshape(rows, groups * ELEMENTS)
    return halves[:, :columns] >= rule(p)[0]


def sum_of(offset: Offset) -> int:
    """The offset as one number, as it is now."""
    if isinstance(offset, tuple):
        return (offset[0] + int(offset[1])) % 2**64
    return offset
