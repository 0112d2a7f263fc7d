"""Sampling the next token from its logits."""

from __future__ import annotations

import math
import numbers

import numpy as np
import numpy.typing as npt

from byhand.errors import UserError
from byhand.values import require_whole_number


def check(temperature: float, top_k: int | None) -> None:
    """UserError if the temperature or top_k is out of range or not a number."""
    if isinstance(temperature, bool) or not isinstance(temperature, numbers.Real):
        raise UserError(f"the temperature must be a number, not {temperature!r}")
    if not (math.isfinite(temperature) and temperature >= 0):
        raise UserError(f"the temperature must be a finite number of at least 0, not {temperature}")
    if top_k is not None:
        require_whole_number("top_k", top_k)
        if top_k < 1:
            raise UserError(f"top-k must keep at least 1 token, not {top_k}")


def probabilities(
    logits: npt.NDArray[np.floating], temperature: float = 1.0, top_k: int | None = None
) -> npt.NDArray[np.float64]:
    """The distribution to draw from: softmax(logits / temperature) over the `top_k` largest logits.

    `logits` and the result have shape (V,). Temperature 0 gives the token with the largest logit
    the probability 1. Of equal logits the one with the smaller id counts as larger, so exactly
    `top_k` tokens are kept. UserError for a NaN among the logits, or another shape.
    """
    check(temperature, top_k)
    scores = np.asarray(logits, dtype=np.float64)
    if scores.ndim != 1 or not scores.size:
        raise UserError(f"the logits of one token must have shape (V,), not {scores.shape}")
    if np.isnan(scores).any():
        raise UserError("the model's logits are not numbers (NaN): its weights are damaged")
    if temperature == 0:
        top_k, temperature = 1, 1.0
    # After the shift a tiny temperature can overflow only to -inf, whose exp is 0.
    with np.errstate(over="ignore"):
        p = np.exp((scores - scores.max()) / temperature)
    if top_k is not None and top_k < len(p):
        p[np.argsort(-scores, kind="stable")[top_k:]] = 0.0
    return p / p.sum()


def sample(p: npt.NDArray[np.float64], rng: np.random.Generator) -> int:
    """A draw from the distribution `p` (V,), by inversion: takes one uniform number of `rng`."""
    sums = np.cumsum(p)
    # side="right" never gives a token of probability 0, and rng.random() < 1 keeps the index below
    # V.
    return int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))
