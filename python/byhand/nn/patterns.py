"""Slopes and masks of attention: ALiBi, block-sparse and local-global attention.

A mask is what ``mask=`` of `MultiHeadAttention` and of `byhand.ops.attention` takes: bool, True
where a query may see a key. On the CPU a tile of 64 queries and 64 keys that a mask hides
completely costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from byhand.nn.protocol import require_whole_number
from byhand.ops import check


def _at_least_1(function: str, name: str, value: int) -> int:
    if require_whole_number(function, name, value) < 1:
        raise check.wrong_value(function, name, "at least 1", value)
    return int(value)


def alibi_slopes(num_heads: int) -> np.ndarray:
    """The slopes of ALiBi, (num_heads,) float64 (Press et al., "Train short, test long", 2022,
    section 3).

    For a power of two they are 2^(-8 h / num_heads), h = 1, 2, ...; for any other number those of
    the power of two below, and then every second slope of the power of two above.
    """
    heads = _at_least_1("alibi_slopes", "num_heads", num_heads)
    power = 2 ** math.floor(math.log2(heads))
    slopes = 2.0 ** (-8 * np.arange(1, power + 1) / power)
    between = 2.0 ** (-8 * np.arange(1, 2 * power, 2) / (2 * power))
    return np.concatenate([slopes, between[: heads - power]])


def block_sparse_mask(
    length: int, block: int = 64, stride: int = 4, pattern: str = "strided"
) -> np.ndarray:
    """The mask (length, length) of block-sparse attention (Child et al., "Generating long sequences
    with sparse transformers", 2019, section 4.3), of blocks of ``block`` positions.

    With the pattern "strided" a block sees those less than ``stride`` blocks away and every
    ``stride``-th one, counted from itself. With "fixed" it sees its own group of ``stride`` blocks
    and the last block of every group. Both look ahead too, unless attention is causal.

    ValueError for a size below 1 or an unknown pattern.
    """
    length = _at_least_1("block_sparse_mask", "length", length)
    block = _at_least_1("block_sparse_mask", "block", block)
    stride = _at_least_1("block_sparse_mask", "stride", stride)
    number = np.arange(length) // block
    i, j = number[:, None], number
    if pattern == "strided":
        return (abs(i - j) < stride) | ((i - j) % stride == 0)
    if pattern == "fixed":
        return (i // stride == j // stride) | (j % stride == stride - 1)
    expected = "'strided' or 'fixed'"
    raise check.wrong_value("block_sparse_mask", "pattern", expected, pattern)


def local_global_mask(length: int, window: int, positions: Sequence[int] = ()) -> np.ndarray:
    """The mask (length, length) of attention that is local but for a few positions (Beltagy et al.,
    "Longformer", 2020, section 3.1): a position sees those less than ``window`` away, and those at
    ``positions`` see all others and are seen by all.

    ValueError for a size below 1 or a position outside the length.
    """
    length = _at_least_1("local_global_mask", "length", length)
    window = _at_least_1("local_global_mask", "window", window)
    at = np.arange(length)
    seen = abs(at[:, None] - at) < window
    for position in positions:
        if not 0 <= require_whole_number("local_global_mask", "positions", position) < length:
            expected = f"in 0..{length - 1}"
            raise check.wrong_value("local_global_mask", "positions", expected, position)
        seen[position] = seen[:, position] = True
    return seen
