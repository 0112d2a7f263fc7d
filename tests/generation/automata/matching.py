"""Automata of expressions, and the texts that they match, for the tests of this folder."""

from __future__ import annotations

import numpy as np

from byhand.generation.automata import json_schema, regex
from byhand.generation.automata.expressions import Automaton, Expressions, steps_to_accept
from byhand.generation.automata.utf8 import over_bytes


def of_regex(pattern: str, **options: bool) -> Automaton:
    make = Expressions()
    return over_bytes(*make.automaton(regex.parse(pattern, make, **options)))


def of_schema(schema: object, depth: int = 3) -> Automaton:
    make = Expressions()
    return over_bytes(*make.automaton(json_schema.parse(schema, make, depth)))


def matches(automaton: Automaton, text: str | bytes) -> bool:
    state = automaton.start
    for byte in text.encode() if isinstance(text, str) else text:
        state = automaton.table[state, byte]
    return bool(automaton.accepting[state])


def matching_characters(automaton: Automaton, codes: np.ndarray) -> np.ndarray:
    """Which of these characters match, (N,) bool."""
    data = np.frombuffer("".join(map(chr, codes)).encode(), np.uint8)
    lengths = 1 + sum((codes >= least).astype(int) for least in (0x80, 0x800, 0x10000))
    begins = np.cumsum(lengths) - lengths
    states = np.full(len(codes), automaton.start)
    for place in range(4):
        longer = lengths > place
        states[longer] = automaton.table[states[longer], data[begins[longer] + place]]
    return automaton.accepting[states]


def random_texts(automaton: Automaton, count: int, seed: int, longest: int = 200) -> list[str]:
    """Random matches; after `longest` bytes the shortest way to the end."""
    sources, bytes_ = np.nonzero(automaton.table)
    steps = steps_to_accept(sources, automaton.table[sources, bytes_], automaton.accepting)
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        state, text = automaton.start, bytearray()
        while not (automaton.accepting[state] and (rng.random() < 0.3 or len(text) > longest)):
            choices = np.flatnonzero(automaton.table[state])
            if not len(choices):
                break
            after = automaton.table[state, choices]
            if len(text) > longest:
                choices = choices[steps[after] == steps[after].min()]
            text.append(int(rng.choice(choices)))
            state = automaton.table[state, text[-1]]
        made.append(text.decode("utf-8"))  # strict: every match is whole characters
    return made
