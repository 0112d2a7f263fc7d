"""Guessing the next tokens of a text from the text itself (Saxena, "Prompt lookup decoding", 2023).

The guess is what followed the last tokens where they occurred before. The model reads it together
with the last token, and only the tokens that it would have chosen anyway are kept, so the text is
the same; a guess costs little, because reading several tokens takes hardly longer than one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def guess(ids: npt.NDArray[np.int64], count: int, longest: int) -> npt.NDArray[np.int64]:
    """Up to ``count`` tokens that may follow ids (T,): those after the latest earlier occurrence of
    its last n tokens, for the largest n <= longest that has one. Empty without one.
    """
    for size in range(min(longest, len(ids) - 1), 0, -1):
        starts = np.flatnonzero(ids[size - 1 : -1] == ids[-1])
        for back in range(2, size + 1):
            starts = starts[ids[starts + size - back] == ids[-back]]
        if starts.size:
            after = int(starts[-1]) + size
            return ids[after : after + count]
    return ids[:0]
