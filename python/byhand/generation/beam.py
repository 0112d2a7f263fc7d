"""Beam search: of all texts of one length, the most probable few are kept and continued."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from byhand.errors import UserError
from byhand.generation import processors as scoring
from byhand.generation.config import GenerationConfig
from byhand.generation.processors import Processor, Scores
from byhand.generation.prompts import Row
from byhand.generation.sampling import draw, row_keys, uniforms
from byhand.generation.session import Session
from byhand.generation.stopping import Stops, ended

Ids = npt.NDArray[np.int64]


def beam_search(
    session: Session, config: GenerationConfig, processors: list[Processor], stops: Stops
) -> list[Row]:
    """The num_return_sequences best texts that each prompt's beams finished, the best first.

    The score of a beam is the sum of its tokens' log-probabilities after the processors. In each
    step the best continuations of all beams are candidates, (number of end tokens + 1) for each
    beam and at least two. Candidates that end a text are finished if they are among the first
    num_beams, with the score divided by (number of new tokens) ** length_penalty; the best others
    are the next beams. The best num_beams finished texts are kept. A prompt is done when its texts
    have their largest length, when no beam is left, or when num_beams texts are finished and,
    unless early_stopping, no beam can be better than the worst of them: with "never" at its largest
    length (if length_penalty is above 0), with False, as a heuristic, at its present length.

    With do_sample the candidates are drawn without replacement from the distribution over all
    continuations. With num_beam_groups each group searches on its own, after the groups before it:
    diversity_penalty is subtracted from the score of a token for each of their beams that has just
    chosen it (Vijayakumar et al. 2018, "Diverse beam search", arXiv:1610.02424).

    Of equal scores the earlier beam and the smaller token id come first. Every prompt is searched
    alone, so that its texts are the same in any batch. The texts are those of Hugging Face's
    transformers: of version 5, and for groups, which it does not have, of version 4, but that a
    group that is done suppresses no token.

    UserError if fewer texts can be finished than are asked for.
    """
    count = config.num_return_sequences
    found: list[list[Row]] = [[row.copy()] * count for row in session.ids]
    begun = ~ended(session, stops)
    if begun.any():
        search = _Search(session, config, processors, stops, np.flatnonzero(begun))
        while len(search.prompts):
            search.step()
        for number in np.flatnonzero(begun).tolist():
            found[number] = search.best(number, count)
    return [text for texts in found for text in texts]


class _Finished:
    """The best finished texts of a group, with their scores, the best first."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.texts: list[tuple[float, Row]] = []

    def add(self, score: float, text: Row) -> None:
        self.texts.append((score, text))
        self.texts = _sorted(self.texts)[: self.most]

    def cannot_improve(self, score: float) -> bool:
        """Whether there are enough texts, none worse than this score."""
        return len(self.texts) == self.most and self.texts[-1][0] >= score


def _sorted(texts: Iterable[tuple[float, Row]]) -> list[tuple[float, Row]]:
    return sorted(texts, key=lambda scored: -scored[0])  # of equal ones the earlier first


class _Search:
    """The beams of P prompts that are not done, in G groups of M beams each.

    Attributes:
        prompts: (P,) their numbers.
        scores: (P, G, M) of the beams; -inf for one that has no continuation.
        done: (P, G) whether a group is done. Its rows stay until all groups of its prompt are.
    """

    def __init__(
        self,
        session: Session,
        config: GenerationConfig,
        processors: list[Processor],
        stops: Stops,
        prompts: Ids,
    ) -> None:
        self.session, self.config = session, config
        self.processors, self.stops = processors, stops
        self.prompts = prompts
        self.beams, self.groups = config.num_beams, config.num_beam_groups
        self.size = self.beams // self.groups
        self.keys = row_keys(config.seed, session.prompts)[prompts]
        self.finished = {
            number: [_Finished(self.size) for _ in range(self.groups)]
            for number in prompts.tolist()
        }
        session.select(prompts)
        _ = session.logits  # a prompt is read once for all its beams
        session.select(np.repeat(np.arange(len(prompts)), self.beams))
        # At first the beams of a group are equal: only one may have continuations.
        self.scores = np.full((len(prompts), self.groups, self.size), -np.inf)
        self.scores[:, :, 0] = 0
        self.done = np.zeros((len(prompts), self.groups), bool)

    def best(self, number: int, count: int) -> list[Row]:
        """The best texts of a prompt. UserError if there are fewer."""
        texts = _sorted(scored for group in self.finished[number] for scored in group.texts)
        if len(texts) < count:
            raise UserError(
                f"num_return_sequences = {count}, but only {len(texts)} different texts of prompt "
                f"{number} could be generated"
            )
        return [text for _, text in texts[:count]]

    def step(self) -> None:
        """One more token for every beam."""
        session = self.session
        shape = (len(self.prompts), self.groups, self.size)
        parents, tokens = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        done = self.done.copy()
        log_p = _log_softmax(session.logits).reshape(len(self.prompts), self.beams, -1)
        penalties = np.zeros((len(self.prompts), log_p.shape[2]))
        for group in range(self.groups):
            parents[:, group], tokens[:, group] = self._step_of(group, log_p - penalties[:, None])
            if group + 1 < self.groups:
                counted = (self.scores[:, group] > -np.inf) & ~done[:, group, None]
                prompt, beam = np.nonzero(counted)
                chosen = tokens[prompt, group, beam]
                np.add.at(penalties, (prompt, chosen), self.config.diversity_penalty)
        left = np.flatnonzero(~self.done.all(axis=1))
        if len(left):
            rows = left[:, None] * self.beams + parents[left].reshape(len(left), -1)
            session.select(rows.reshape(-1))
            session.extend(tokens[left].reshape(-1))
        self.prompts, self.keys = self.prompts[left], self.keys[left]
        self.scores, self.done = self.scores[left], self.done[left]

    def _step_of(self, group: int, log_p: Scores) -> tuple[Ids, Ids]:
        """The beams of a group that go on, as (P, M) row of the prompt and (P, M) token; updates
        scores, done and finished texts. log_p (P, G * M, V).
        """
        session, size = self.session, self.size
        vocabulary = log_p.shape[2]
        flat = log_p.reshape(-1, vocabulary)
        flat = scoring.apply(self.processors, session.ids, flat, every_row=False)
        mine = slice(group * size, (group + 1) * size)
        sums = self.scores[:, group, :, None] + flat.reshape(log_p.shape)[:, mine]
        values, index = self._candidates(sums.reshape(len(sums), -1))
        parent, token = group * size + index // vocabulary, index % vocabulary

        live = values > -np.inf
        ends = np.isin(token, self.config.eos_ids) | self._stopped(parent, token, live)
        new = session.steps + 1
        limits = session.limits[:: self.beams]
        last = (limits == new)[:, None]
        order = np.argsort(ends | ~live, axis=1, kind="stable")[:, :size]
        goes_on = np.zeros(live.shape, bool)
        np.put_along_axis(goes_on, order, True, axis=1)
        goes_on &= live & ~ends
        first = live & (np.arange(values.shape[1]) < size)
        # At the largest length transformers 4, which the groups follow, finishes all beams.
        complete = (first & ends) | (last & (first if self.groups == 1 else goes_on))
        chosen = np.take_along_axis(np.where(goes_on, values, -np.inf), order, axis=1)
        # And its best score includes that of a text that has just ended.
        best = chosen[:, 0] if self.groups == 1 else values[:, 0]
        for number in np.flatnonzero(~self.done[:, group]):
            finished = self.finished[int(self.prompts[number])][group]
            for place in np.flatnonzero(complete[number]):
                text = session.ids[number * self.beams + parent[number, place]]
                score = float(values[number, place]) / new**self.config.length_penalty
                finished.add(score, np.append(text, token[number, place]))
            bound = self._bound(float(best[number]), new, int(limits[number]))
            over = last[number, 0] or chosen[number, 0] == -np.inf
            self.done[number, group] = over or finished.cannot_improve(bound)
        self.scores[:, group] = chosen
        return np.take_along_axis(parent, order, axis=1), np.take_along_axis(token, order, axis=1)

    def _candidates(self, sums: Scores) -> tuple[Scores, Ids]:
        """The scores (P, K) of the best or drawn continuations, descending, and which of all (P, N)
        they are.
        """
        count = max(2, len(self.config.eos_ids) + 1) * self.size
        count = min(count, sums.shape[1])
        if not self.config.samples:
            return largest(sums, count)
        rows = np.arange(len(sums))
        left = sums.copy()
        values, index = np.empty((len(sums), count)), np.empty((len(sums), count), np.int64)
        for place in range(count):
            any_left = left.max(axis=1) > -np.inf
            scores = np.where(any_left[:, None], left, 0.0)
            index[:, place] = draw(scores, uniforms(self.keys, self.session.steps * count + place))
            values[:, place] = np.where(any_left, left[rows, index[:, place]], -np.inf)
            left[rows, index[:, place]] = -np.inf
        order = np.argsort(-values, axis=1, kind="stable")
        return np.take_along_axis(values, order, 1), np.take_along_axis(index, order, 1)

    def _stopped(self, parent: Ids, token: Ids, live: npt.NDArray[np.bool_]) -> Ids:
        """Which candidates (P, K) end their text without an end token."""
        found = np.zeros(token.shape, bool)
        if self.stops:
            at = np.nonzero(live)
            rows = at[0] * self.beams + parent[at]
            new, limits = self.session.new_ids, self.session.limits[rows]
            texts = [np.append(new[row], id) for row, id in zip(rows, token[at], strict=True)]
            found[at] = self.stops(texts, limits)
        return found

    def _bound(self, score: float, new: int, limit: int) -> float:
        """The best score that a beam may still reach."""
        config = self.config
        if config.early_stopping is True:
            return -np.inf
        longest = config.early_stopping == "never" and config.length_penalty > 0
        return score / (limit if longest else new) ** config.length_penalty


def _log_softmax(logits: npt.NDArray[np.floating]) -> Scores:
    shifted = np.asarray(logits, np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def largest(scores: Scores, count: int) -> tuple[Scores, Ids]:
    """The ``count`` largest scores of each row (R, N), descending, and their places, each (R,
    count). Of equal ones those with smaller places come first.
    """
    kept = scoring.are_largest(scores, np.full(len(scores), count))
    places = np.nonzero(kept)[1].reshape(len(scores), count)
    values = np.take_along_axis(scores, places, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    return np.take_along_axis(values, order, axis=1), np.take_along_axis(places, order, axis=1)
