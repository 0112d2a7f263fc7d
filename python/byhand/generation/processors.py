"""Processors: functions that change the scores of the next token before one is chosen.

A processor is a function of

    ids: R arrays (T,) int64, the tokens of each row so far, prompt included
    scores: (R, V) float64, logits (log-probabilities in beam search); -inf excludes a token

that returns the new scores and leaves its arguments as they are. The functions below make one each;
`build` lists those of a configuration in the order of Hugging Face's transformers. Where scores are
equal, the token with the smaller id counts as larger, so the sets are those of a sorted list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from byhand.errors import UserError
from byhand.generation.config import GenerationConfig
from byhand.generation.constraint import Constraint
from byhand.generation.prompts import Row
from byhand.generation.session import Session

Scores = npt.NDArray[np.float64]
Processor = Callable[[Sequence[Row], Scores], Scores]


def build(
    config: GenerationConfig, session: Session, own: Iterable[Processor | Constraint] = ()
) -> list[Processor]:
    """The processors of a configuration, with the user's ``own`` before those of sampling.

    With beams, sampling leaves one token more than there are end tokens, so that a beam can go on.
    """
    made: list[Processor] = []
    if config.repetition_penalty != 1:
        made.append(repetition_penalty(config.repetition_penalty))
    if config.no_repeat_ngram_size:
        made.append(no_repeat_ngram(config.no_repeat_ngram_size))
    if config.bad_words_ids:
        ends = {(id,) for id in config.eos_ids}  # a text may always end, as in transformers
        if words := [word for word in config.bad_words_ids if word not in ends]:
            made.append(bad_words(words))
    if config.min_new_tokens and config.eos_ids:
        made.append(min_new_tokens(config.min_new_tokens, config.eos_ids, lambda: session.steps))
    for one in own:
        if isinstance(one, Constraint):
            made.append(one.bind(session))
        elif callable(one):
            made.append(one)
        else:
            raise UserError(f"a logits_processor is a function (ids, scores) -> scores, not {one}")
    return [*made, *_of_sampling(config)] if config.samples else made


def _of_sampling(config: GenerationConfig) -> list[Processor]:
    keep = len(config.eos_ids or (0,)) + 1 if config.num_beams > 1 else 1
    made: list[Processor] = []
    if config.temperature != 1:
        made.append(temperature(config.temperature))
    if config.top_k:
        made.append(top_k(config.top_k, keep))
    if config.top_p < 1:
        made.append(top_p(config.top_p, keep))
    if config.min_p is not None:
        made.append(min_p(config.min_p, keep))
    if config.typical_p < 1:
        made.append(typical_p(config.typical_p, keep))
    return made


def apply(
    processors: Iterable[Processor], ids: Sequence[Row], logits: Any, every_row: bool = True
) -> Scores:
    """The scores (R, V) after all processors. UserError if one returns another shape or NaN, or,
    with every_row, no token is left in a row.
    """
    scores = np.array(logits, np.float64)
    for processor in processors:
        shape = scores.shape
        scores = np.asarray(processor(ids, scores), np.float64)
        if scores.shape != shape or np.isnan(scores).any():
            name = getattr(processor, "__name__", repr(processor))
            wrong = "NaN" if scores.shape == shape else f"shape {scores.shape}"
            raise UserError(f"the processor {name} must return scores {shape}, not {wrong}")
    if every_row and (scores.max(axis=1, initial=-np.inf) == -np.inf).any():
        raise UserError("every token is excluded: fewer bad_words_ids or other conditions are met")
    return scores


# --- What the text so far changes ----------------------------------------------------------------


def repetition_penalty(penalty: float) -> Processor:
    """Divides the positive scores of the tokens in a row by ``penalty`` and multiplies its negative
    ones (Keskar et al., "CTRL", 2019, section 4.1).
    """

    def repetition_penalty(ids: Sequence[Row], scores: Scores) -> Scores:
        scores = scores.copy()
        for row, line in zip(ids, scores, strict=True):
            known = np.unique(row)
            line[known] = np.where(line[known] < 0, line[known] * penalty, line[known] / penalty)
        return scores

    return repetition_penalty


def no_repeat_ngram(size: int) -> Processor:
    """Excludes the tokens that would end a sequence of ``size`` tokens that is in the row already
    (Paulus et al., 2018, section 2.5).
    """

    def no_repeat_ngram(ids: Sequence[Row], scores: Scores) -> Scores:
        scores = scores.copy()
        for row, line in zip(ids, scores, strict=True):
            if len(row) >= size:
                known = np.lib.stride_tricks.sliding_window_view(row, size)
                begin = row[len(row) - size + 1 :]
                line[known[(known[:, :-1] == begin).all(axis=1), -1]] = -np.inf
        return scores

    return no_repeat_ngram


def bad_words(words: Iterable[Sequence[int]]) -> Processor:
    """Excludes the last token of each of these sequences where a row ends with the others."""
    listed = [np.array(word, np.int64) for word in words]

    def bad_words(ids: Sequence[Row], scores: Scores) -> Scores:
        scores = scores.copy()
        for row, line in zip(ids, scores, strict=True):
            for word in listed:
                begin = word[:-1]
                if len(row) >= len(begin) and (row[len(row) - len(begin) :] == begin).all():
                    line[word[-1]] = -np.inf
        return scores

    return bad_words


def min_new_tokens(count: int, eos_ids: Sequence[int], steps: Callable[[], int]) -> Processor:
    """Excludes the end tokens while ``steps()`` new tokens are fewer than ``count``."""
    ends = list(eos_ids)

    def min_new_tokens(ids: Sequence[Row], scores: Scores) -> Scores:
        if steps() < count:
            scores = scores.copy()
            scores[:, ends] = -np.inf
        return scores

    return min_new_tokens


# --- Sampling ------------------------------------------------------------------------------------


def temperature(value: float) -> Processor:
    """Divides the scores by ``value``, before the softmax (Ackley et al., 1985)."""

    def temperature(ids: Sequence[Row], scores: Scores) -> Scores:
        with np.errstate(over="ignore"):
            scaled = scores / value
            if np.isinf(scaled[np.isfinite(scores)]).any():
                # Relative to the largest a tiny value can overflow only to -inf, whose exp is 0.
                scaled = (scores - scores.max(axis=1, keepdims=True)) / value
        return scaled

    return temperature


def top_k(k: int, keep: int = 1) -> Processor:
    """Keeps the ``k`` largest scores, at least ``keep`` (Fan et al., 2018)."""

    def top_k(ids: Sequence[Row], scores: Scores) -> Scores:
        count = min(max(k, keep), scores.shape[1])
        return _largest(scores, np.full(len(scores), count))

    return top_k


def top_p(p: float, keep: int = 1) -> Processor:
    """Keeps the fewest largest scores whose probabilities add up to at least ``p``, and at least
    ``keep`` (Holtzman et al., 2020, section 3.1).
    """

    def top_p(ids: Sequence[Row], scores: Scores) -> Scores:
        sums = np.cumsum(softmax(-np.sort(-scores, axis=1)), axis=1)
        return _largest(scores, np.maximum((sums < p).sum(axis=1) + 1, keep))

    return top_p


def min_p(part: float, keep: int = 1) -> Processor:
    """Keeps the tokens with at least ``part`` of the largest probability, at least ``keep`` of them
    (Nguyen et al., 2024).
    """

    def min_p(ids: Sequence[Row], scores: Scores) -> Scores:
        p = softmax(scores)
        count = (p >= part * p.max(axis=1, keepdims=True)).sum(axis=1)
        return _largest(scores, np.maximum(count, keep))

    return min_p


def typical_p(mass: float, keep: int = 1) -> Processor:
    """Keeps the tokens whose information -log p is nearest to the entropy, the fewest whose
    probabilities add up to at least ``mass``, and at least ``keep`` (Meister et al., 2023, eq. 8).
    """

    def typical_p(ids: Sequence[Row], scores: Scores) -> Scores:
        p = softmax(scores)
        with np.errstate(divide="ignore", invalid="ignore"):
            information = -np.log(p)
            entropy = np.where(p > 0, p * information, 0.0).sum(axis=1, keepdims=True)
        order = np.argsort(np.abs(information - entropy), axis=1, kind="stable")
        sums = np.cumsum(np.take_along_axis(p, order, axis=1), axis=1)
        count = np.maximum((sums < mass).sum(axis=1) + 1, keep)[:, None]
        kept = np.zeros(scores.shape, bool)
        np.put_along_axis(kept, order, np.arange(scores.shape[1]) < count, axis=1)
        return np.where(kept, scores, -np.inf)

    return typical_p


def softmax(scores: Scores) -> Scores:
    """Probabilities (R, V) of scores."""
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def _largest(scores: Scores, counts: npt.NDArray[np.int64]) -> Scores:
    """The ``counts[r]`` largest scores of each row r, of equal ones those with the smaller ids;
    -inf for the others.
    """
    return np.where(are_largest(scores, counts), scores, -np.inf)


def are_largest(scores: Scores, counts: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether each score (R, V) is one of the ``counts[r]`` largest of its row r; of equal ones
    those with the smaller ids are.
    """
    size = scores.shape[1]
    counts = np.minimum(counts, size)[:, None]
    places = np.unique(size - counts)
    last = np.take_along_axis(np.partition(scores, places, axis=1), size - counts, axis=1)
    above, equal = scores > last, scores == last
    of_equal = counts - above.sum(axis=1, keepdims=True)
    return above | (equal & (np.cumsum(equal, axis=1) <= of_equal))
