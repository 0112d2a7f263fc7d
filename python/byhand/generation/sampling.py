"""From the scores of the next token to the next token."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from byhand.errors import UserError


def check(temperature: float, top_k: int | None) -> None:
    """UserError unless the two settings make sense."""
    if not (math.isfinite(temperature) and temperature >= 0):
        raise UserError(f"the temperature must be 0 or greater, not {temperature}")
    if top_k is not None and top_k < 1:
        raise UserError(f"top-k must keep at least 1 token, not {top_k}")


def probabilities(
    logits: npt.NDArray[np.floating], temperature: float = 1.0, top_k: int | None = None
) -> npt.NDArray[np.float64]:
    """The distribution to draw from: softmax(logits / temperature) over the `top_k` best scores.

    `logits` and the result have shape (V,). Temperature 0 puts everything on the best token.
    Among equal scores the smaller id is the better one, so exactly `top_k` tokens are kept.
    """
    check(temperature, top_k)
    scores = np.asarray(logits, dtype=np.float64)
    if np.isnan(scores).any():
        raise UserError("the model's scores are not numbers (NaN): its weights are damaged")
    if temperature == 0:
        top_k, temperature = 1, 1.0
    # The shift comes first: a tiny temperature then overflows only to -inf, whose exp is 0.
    with np.errstate(over="ignore"):
        p = np.exp((scores - scores.max()) / temperature)
    if top_k is not None and top_k < len(p):
        p[np.argsort(-scores, kind="stable")[top_k:]] = 0.0
    return p / p.sum()


def choose(p: npt.NDArray[np.float64], rng: np.random.Generator) -> int:
    """A draw from the distribution `p` of shape (V,): one uniform number, sought in the sums."""
    sums = np.cumsum(p)
    # `right` never lands on a probability of 0, and rng.random() < 1 keeps it below the last sum.
    return int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))
