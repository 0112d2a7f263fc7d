"""Draws of the next token, the same for a row alone and in a batch.

The random numbers come from a counter-based generator: each depends on the row's key and the number
of the token only, not on what was drawn before or in other rows. The key depends on the seed, the
prompt, and the number of the text among those of equal prompts.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from byhand.generation.processors import Scores
from byhand.generation.prompts import Row
from byhand.ops import philox

Keys = npt.NDArray[np.uint64]


def row_keys(seed: int, prompts: Sequence[Row], count: int = 1, first: int = 0) -> Keys:
    """A key for each of ``count`` texts of each prompt: (len(prompts) * count,), those of one
    prompt side by side, the texts first, first + 1, ... of it. An equal prompt later in the batch
    has the keys of further texts.
    """
    made: list[int] = []
    earlier: Counter[bytes] = Counter()
    for prompt in prompts:
        of_prompt = np.asarray(prompt, "<i8").tobytes()
        for _ in range(count):
            named = f"{seed} {first + earlier[of_prompt]} ".encode() + of_prompt
            made.append(int.from_bytes(hashlib.sha256(named).digest()[:8], "little"))
            earlier[of_prompt] += 1
    return np.array(made, np.uint64)


def uniforms(keys: Keys, step: int) -> npt.NDArray[np.float64]:
    """Numbers (R,) uniform in [0, 1), multiples of 2^-53, for token ``step`` of rows with these
    keys (R,).
    """
    drawn = philox.words(np.full(len(keys), step), keys, 0).astype(np.uint64)
    return ((drawn[:, 0] >> 5) * 2.0**26 + (drawn[:, 1] >> 6)) * 2.0**-53


def draw(scores: Scores, u: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Tokens (R,) from the distributions softmax(scores), scores (R, V), by inversion of u (R,)."""
    sums = np.cumsum(np.exp(scores - scores.max(axis=1, keepdims=True)), axis=1)
    # u < 1, so that u times the whole sum is below it: a token of probability 0 is never drawn.
    return (sums <= (u * sums[:, -1])[:, None]).sum(axis=1)
