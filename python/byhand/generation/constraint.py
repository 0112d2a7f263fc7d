"""Constrained decoding: only texts that match a regular expression or a JSON schema.

The pattern becomes an automaton over bytes, and the vocabulary a trie; for each state of the
automaton the trie is walked once to find the tokens that may follow. Source: Willard and Louf 2023,
"Efficient guided generation for large language models", arXiv:2307.09702.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from byhand.errors import UserError
from byhand.generation.automata import json_schema as schemas
from byhand.generation.automata import regex as patterns
from byhand.generation.automata.expressions import Automaton, Expressions
from byhand.generation.automata.tokens import TokenAutomaton
from byhand.generation.automata.utf8 import over_bytes
from byhand.generation.prompts import Row
from byhand.text.token_bytes import token_bytes

Scores = npt.NDArray[np.float64]


def constrain(
    tokenizer: Any, *, regex: str | None = None, json_schema: Any = None, depth: int = 3
) -> Constraint:
    """A logits processor under which the text after the prompt matches.

        model.generate(ids, logits_processor=[constrain(model, regex=r"(yes|no)\\.")])

    Args:
        tokenizer: a tokenizer, a model that has one as model.tokenizer, or the bytes of each token,
            a list of bytes with b"" for tokens that are no text.
        regex: a regular expression that the whole text matches, as in `re.fullmatch`; what is
            supported is in `byhand.generation.automata.regex`.
        json_schema: a schema as a dict or as JSON text; what is supported is in
            `byhand.generation.automata.json_schema`.
        depth: how often a $ref of the schema is followed inside itself, and how deep arrays and
            objects without a schema are nested.

    End tokens are allowed where the text matches, and where nothing can follow only they are; a
    model without end tokens ends there. A text is never cut: tokens after which no match can be
    finished within the tokens that are left are not chosen. The text of a tokenizer that writes a
    space as a part of the next word begins with that space.

    UserError for a pattern that is wrong, not supported or too large, for a tokenizer whose tokens
    write different texts in different places, and if no text of its tokens matches.
    """
    if (regex is None) == (json_schema is None):
        raise UserError("a constraint is a regex or a json_schema: give one of them")
    if type(depth) is not int or depth < 0:
        raise UserError(f"depth must be a whole number of at least 0, not {depth!r:.60}")
    if json_schema is not None and not isinstance(json_schema, str):
        try:
            json_schema = json.dumps(json_schema)
        except (TypeError, ValueError, RecursionError):
            raise UserError("json_schema must be a dict of JSON data, or JSON text") from None
    if isinstance(tokenizer, (list, tuple)):
        tokenizer = tuple(tokenizer)
        if not all(isinstance(token, bytes) for token in tokenizer):
            raise UserError("the vocabulary of a constraint is a list with the bytes of each token")
    elif not hasattr(tokenizer, "decode"):
        if getattr(tokenizer, "tokenizer", None) is None:
            raise UserError("a constraint needs the tokenizer, or a model that has one")
        tokenizer = tokenizer.tokenizer
    return _compiled(tokenizer, regex, json_schema, depth)


@lru_cache(maxsize=8)
def _compiled(tokenizer: Any, regex: str | None, schema: str | None, depth: int) -> Constraint:
    make = Expressions()
    if regex is not None:
        node, name = patterns.parse(regex, make), "regular expression"
    else:
        node, name = schemas.parse(schema, make, depth), "JSON schema"
    tokens = tokenizer if isinstance(tokenizer, tuple) else token_bytes(tokenizer)
    return Constraint(over_bytes(*make.automaton(node)), tokens, name)


class Constraint:
    """A compiled pattern over the vocabulary of a tokenizer, made by `constrain`. It keeps no state
    of a text and can be used for any number of them.
    """

    def __init__(self, automaton: Automaton, tokens: Sequence[bytes], name: str) -> None:
        self._automaton = automaton
        self._tokens = tokens
        self._name = name
        self._over_tokens: dict[frozenset[int], TokenAutomaton] = {}

    def bind(self, session: Any) -> BoundConstraint:
        """The processor for the texts of a `Session`. UserError if no match fits its limits."""
        return BoundConstraint(self, session)

    def over_tokens(self, ends: Sequence[int]) -> TokenAutomaton:
        """The automaton over the tokens, where these end tokens are not text. UserError if no text
        of the other tokens matches.
        """
        written = frozenset(id for id in ends if id < len(self._tokens) and self._tokens[id])
        if written not in self._over_tokens:
            tokens = list(self._tokens)
            for id in written:
                tokens[id] = b""
            self._over_tokens[written] = TokenAutomaton(self._automaton, tokens)
        found = self._over_tokens[written]
        if found.steps[found.start] < 0:
            raise UserError(f"no text of the tokenizer's tokens matches the {self._name}")
        return found

    def __len__(self) -> int:
        """How many tokens the vocabulary has."""
        return len(self._tokens)

    def require_fit(self, automaton: TokenAutomaton, most: int) -> None:
        """UserError if no match has at most so many tokens."""
        shortest = automaton.steps[automaton.start]
        if shortest > most:
            raise UserError(
                f"the shortest text that matches the {self._name} has {shortest} tokens, and only "
                f"{most} may be generated"
            )


class BoundConstraint:
    """A constraint on the texts of a session: a processor, and where its texts end.

    Attributes:
        ends_texts: whether a text ends where nothing can follow, because there is no end token that
            would say so.
    """

    def __init__(self, constraint: Constraint, session: Any) -> None:
        config = session.config
        self._session = session
        self._ends = np.array(config.eos_ids, np.int64)
        self.ends_texts = not len(self._ends)
        self._automaton = constraint.over_tokens(config.eos_ids)
        self._size = session.model.config.vocabulary_size
        if len(constraint) > self._size:
            raise UserError(
                f"the tokenizer of the constraint has {len(constraint)} tokens, and the model "
                f"{self._size}"
            )
        constraint.require_fit(self._automaton, int(session.limits.min()))
        self._states: dict[bytes, int] = {}  # of the rows of the last call, by their new tokens

    def __call__(self, ids: Sequence[Row], scores: Scores) -> Scores:
        """-inf for the tokens with which no match begins, or none that fits the limits."""
        session, automaton = self._session, self._automaton
        masked = np.full_like(scores, -np.inf)
        states = {}
        for row, new in enumerate(session.new_ids):
            key = new.tobytes()
            state = states[key] = self._state(new)
            allowed = self._allowed(state, int(session.limits[row]) - len(new))
            if automaton.accepting[state]:
                allowed = np.concatenate([allowed, self._ends])
            masked[row, allowed] = scores[row, allowed]
        self._states = states
        return masked

    def ended(self, new: Sequence[Row], limits: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Whether nothing can follow each of these texts, tokens (T,) after the prompt, when each
        may have at most so many (R,): (R,).
        """
        left = (int(limit) - len(row) for row, limit in zip(new, limits, strict=True))
        states = map(self._state, new)
        return np.array(
            [not len(self._allowed(*one)) for one in zip(states, left, strict=True)], bool
        )

    def _allowed(self, state: int, left: int) -> npt.NDArray[np.int64]:
        """The tokens of text that may follow when ``left`` more may be written."""
        after = self._automaton.after_tokens(state)
        return np.flatnonzero((after > 0) & (self._automaton.steps[after] < left))

    def _state(self, new: Row) -> int:
        """The state after these tokens; 0 if no match begins with them."""
        key = new.tobytes()
        if key in self._states:
            return self._states[key]
        known = self._states.get(new[:-1].tobytes()) if len(new) else None
        state, rest = (self._automaton.start, new) if known is None else (known, new[-1:])
        for token in rest.tolist():
            state = self._automaton.after(state, token)
        return state
