"""Where a text ends: at an end token, a stop string, or its largest length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from byhand.errors import UserError
from byhand.generation.constraint import BoundConstraint
from byhand.generation.prompts import Row

Bools = npt.NDArray[np.bool_]


class Stops:
    """Whether a stop string occurs in the text of each row and ends with its last token, or a
    constraint lets nothing follow.

        stops = Stops(("###",), tokenizer)
        stops(session.new_ids, session.limits) -> (R,) bool

    Only what follows the prompt is searched, as decoded text. The last token may have more
    characters behind the stop string. UserError without a tokenizer.
    """

    def __init__(
        self,
        strings: Sequence[str] | None,
        tokenizer: Any,
        constraints: Sequence[BoundConstraint] = (),
    ) -> None:
        if strings and tokenizer is None:
            raise UserError(
                "stop_strings need the model's tokenizer: give tokenizer=, or load the model with "
                "byhand.load"
            )
        self._strings = tuple(strings or ())
        self._tokenizer = tokenizer
        self._longest = max((len(s) for s in self._strings), default=0)
        self._constraints = [one for one in constraints if one.ends_texts]

    def __bool__(self) -> bool:
        return bool(self._strings or self._constraints)

    def __call__(self, ids: Sequence[Row], limits: npt.NDArray[np.int64]) -> Bools:
        found = np.zeros(len(ids), bool)
        if self._strings:
            found |= [self._ends(row) for row in ids]
        for constraint in self._constraints:
            found |= constraint.ended(ids, limits)
        return found

    def _ends(self, ids: Row) -> bool:
        """Decodes as many of the last tokens as hold a stop string before the last one."""
        count = 2 * self._longest + 8
        while True:
            text = self._tokenizer.decode(ids[-count:])
            if count >= len(ids) or len(text) > 2 * self._longest + 4:
                return any(s in text for s in self._strings)
            count *= 2


def ended(session: Any, stops: Stops) -> Bools:
    """Which rows (R,) of a session end with their last token: at an end token, a stop string, where
    a constraint lets nothing follow, or because they have as many tokens as they may.
    """
    done = session.steps >= session.limits
    if session.steps:
        last = session.last_tokens
        done = done | np.isin(last, session.config.eos_ids)
    if stops:
        done = done | stops(session.new_ids, session.limits)
    return done
