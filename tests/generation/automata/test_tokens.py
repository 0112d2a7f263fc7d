"""The tokens that may follow in a state, against brute force over the vocabulary."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from byhand.generation.automata.tokens import TokenAutomaton, Trie
from tests.generation.automata.matching import of_regex

SPLIT = "é€\U0001f600".encode()
VOCABULARIES = {
    "bytes": [bytes([b]) for b in range(256)],
    "characters": [c.encode() for c in "ab01é€"],
    "words": [b"", b"a", b"ab", b"abab", b"b", b"0", b"01", b"1", b"ab", b"\xc3", b"\xa9b", b" "],
    "halves": [SPLIT[i:j] for i in range(len(SPLIT)) for j in range(i + 1, len(SPLIT) + 1)],
    "empty": [],
}
PATTERNS = [r"(ab)+0?", r"[é€\U0001f600]{1,3}", r"a{2,4}|b", r"\d+1", r".*", r"ab|a[^\s\S]", ""]


def walked(table: np.ndarray, state: int, token: bytes) -> int:
    for byte in token:
        state = int(table[state, byte])
    return state


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", VOCABULARIES)
def test_what_may_follow_equals_brute_force(name: str, pattern: str):
    tokens = VOCABULARIES[name]
    automaton = of_regex(pattern)
    found = TokenAutomaton(automaton, tokens)
    # The least number of tokens to the end, by repeated relaxation.
    states = len(automaton.table)
    after = [[walked(automaton.table, s, t) if t else 0 for t in tokens] for s in range(states)]
    steps = np.where(automaton.accepting, 0, np.inf)
    for _ in range(states):
        steps = np.array(
            [min([steps[s], *(1 + steps[n] for n in after[s])]) for s in range(states)]
        )
    reached, waiting = {automaton.start}, [automaton.start]
    while waiting:
        new = set(after[waiting.pop()]) - reached - {0}
        reached |= new
        waiting += new
    for state in reached:
        assert found.steps[state] == (-1 if steps[state] == np.inf else steps[state])
        expected = [n if n and steps[n] < np.inf else 0 for n in after[state]]
        assert found.after_tokens(state).tolist() == expected
        assert [found.after(state, token) for token in range(len(tokens))] == expected


def test_every_text_of_allowed_tokens_begins_a_match():
    """Both ways: the texts of up to four tokens, against the matches of `re`."""
    tokens = VOCABULARIES["words"]
    pattern = "(ab){1,2}(0|01)?"
    found = TokenAutomaton(of_regex(pattern), tokens)
    complete = set()
    for length in range(5):
        for chosen in itertools.product(range(len(tokens)), repeat=length):
            if all(tokens[id] for id in chosen):
                text = b"".join(tokens[id] for id in chosen)
                if re.fullmatch(pattern.encode(), text):
                    complete.add(chosen)
    reached = {(): found.start}
    for _ in range(4):
        for chosen, state in list(reached.items()):
            allowed = np.flatnonzero(found.after_tokens(state)).tolist()
            reached |= {(*chosen, id): found.after(state, id) for id in allowed}
    assert {chosen for chosen, state in reached.items() if found.accepting[state]} == complete
    begun = {chosen[:n] for chosen in complete for n in range(len(chosen) + 1)}
    # Matches have at most five tokens; what has four may need one more.
    assert {chosen for chosen in reached if len(chosen) < 4} == {c for c in begun if len(c) < 4}


def test_few_kept_states_give_the_same_tokens(monkeypatch: pytest.MonkeyPatch):
    tokens = VOCABULARIES["words"]
    automaton = of_regex("(ab)+0?1?")
    usual, small = TokenAutomaton(automaton, tokens), TokenAutomaton(automaton, tokens)
    monkeypatch.setattr(small, "_most_kept", 1)
    for state in [*range(1, len(automaton.table))] * 2:
        np.testing.assert_array_equal(usual.after_tokens(state), small.after_tokens(state))
        assert len(small._next) == 1


def test_the_trie_has_a_node_for_each_beginning():
    tokens = [b"ab", b"a", b"", b"ab", b"b"]
    trie = Trie(tokens)
    assert len(trie.symbols) == 1 + len({t[:n] for t in tokens for n in range(1, len(t) + 1)})
    assert trie.end[2] == 0
    assert trie.end[0] == trie.end[3] != trie.end[1]
