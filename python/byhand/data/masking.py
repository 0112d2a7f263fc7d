"""Masked tokens to predict (Devlin et al., 2018, section 3.1 and appendix A.1)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from byhand.data.dataset import Batch, Dataset, checked_indices
from byhand.errors import UserError
from byhand.ops import philox
from byhand.ops.check import IGNORED
from byhand.values import require_whole_number

_WORDS = 2.0**32


class MaskedDataset:
    """The rows of a data set, each in many variants with other masks.

    Of the tokens of a row 15 % are chosen: 80 % of these become [MASK], 10 % another token, drawn
    uniformly from those that are not special, and 10 % stay. "labels" (B, T) has the former ids of
    the chosen tokens and -100 elsewhere. Special tokens and padding are never chosen; of a row that
    has other tokens at least one is chosen.

    Item i is row i % n with the masks that Philox draws from (seed, i): they depend on nothing
    else, so a resumed run draws the same ones again. A data set that has variants of its own, as
    `SentencePairs`, takes ``variants=1``.
    """

    def __init__(
        self,
        rows: Dataset,
        mask: int,
        vocabulary_size: int,
        special: Iterable[int] = (),
        probability: float = 0.15,
        seed: int = 0,
        variants: int = 1 << 20,
        most: int | None = None,
    ) -> None:
        """
        Args:
            rows: gives "ids" (B, T), and "lengths" where there is padding.
            mask: the id of [MASK].
            special: ids that are never chosen and never drawn, besides that of [MASK].
            probability: of being chosen.
            most: how many tokens of a row are chosen at most. If it is given, a batch has
                "positions" (B, most), b * T + t, and "labels" (B, most), whose unused places are 0
                and -100: shapes that a CUDA graph needs.

        UserError names what is wrong.
        """
        require_whole_number("the vocabulary", vocabulary_size, 1)
        require_whole_number("the number of variants", variants, 1)
        require_whole_number("the seed", seed, 0)
        if most is not None:
            require_whole_number("the most tokens to mask", most, 1)
        if not isinstance(probability, (int, float)) or not 0 < probability <= 1:
            raise UserError(
                f"the probability of a mask must be greater than 0 and at most 1, not {probability}"
            )
        self.special = np.array(sorted({mask, *special}), np.int64)
        if outside := [i for i in self.special.tolist() if not 0 <= i < vocabulary_size]:
            raise UserError(f"the id {outside[0]} is outside the vocabulary of {vocabulary_size}")
        self.rows, self.mask, self.probability = rows, mask, probability
        self._seed, self._variants, self._most = seed, variants, most
        self._ordinary = np.setdiff1d(np.arange(vocabulary_size), self.special)
        if not len(self._ordinary):
            raise UserError("all tokens of the vocabulary are special: none can be masked")

    def __len__(self) -> int:
        return len(self.rows) * self._variants

    def batch(self, indices: npt.ArrayLike) -> Batch:
        """Items `indices` (B,): the arrays of the rows, with masked "ids", and "labels"."""
        indices = checked_indices(indices, len(self))
        made = self.rows.batch(indices % len(self.rows))
        ids, labels = made["ids"], np.full_like(made["ids"], IGNORED)
        width = ids.shape[1]
        lengths = made.get("lengths", np.full(len(ids), width))
        free = (np.arange(width) < lengths[:, None]) & ~np.isin(ids, self.special)
        for row, item in enumerate(indices.tolist()):
            self._mask(ids[row], labels[row], free[row], item)
        made["labels"] = labels
        if self._most is not None:
            self._gather(made, self._most)
        return made

    def _mask(self, ids: Any, labels: Any, free: Any, item: int) -> None:
        drawn = philox.words(np.arange(len(ids)), self._seed, item).astype(np.int64)
        order = np.where(free, drawn[:, 0], 1 << 32)
        chosen = order < self.probability * _WORDS
        if free.any() and not chosen.any():
            chosen[order.argmin()] = True
        if self._most is not None and chosen.sum() > self._most:
            chosen &= order <= np.partition(order, self._most - 1)[self._most - 1]
        labels[chosen] = ids[chosen]
        kind = drawn[:, 1] / _WORDS
        ids[chosen & (kind < 0.8)] = self.mask
        replaced = chosen & (kind >= 0.8) & (kind < 0.9)
        ids[replaced] = self._ordinary[drawn[replaced, 2] % len(self._ordinary)]

    def _gather(self, made: Batch, most: int) -> None:
        labels = made["labels"]
        positions = np.zeros((len(labels), most), np.int64)
        kept = np.full((len(labels), most), IGNORED)
        for row, of_row in enumerate(labels):
            at = np.flatnonzero(of_row != IGNORED)[:most]
            positions[row, : len(at)] = row * labels.shape[1] + at
            kept[row, : len(at)] = of_row[at]
        made["labels"], made["positions"] = kept, positions
