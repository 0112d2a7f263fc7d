"""From an automaton over bytes to the tokens that may follow in each of its states."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from byhand.generation.automata.expressions import Automaton, steps_to_accept

_KEPT = 1 << 26  # bytes of next states that are kept


class Trie:
    """The tokens of a vocabulary as a tree of their bytes, whose root is node 0.

    The children of a node are neighbours: `children[n]` to `children[n + 1]`. Tokens with the same
    bytes end in one node; a token without bytes ends in the root.
    """

    def __init__(self, tokens: Sequence[bytes]) -> None:
        # Sorted, tokens with a common beginning are neighbours, and a node is an interval of them.
        order = sorted(range(len(tokens)), key=tokens.__getitem__)
        first = next((i for i, id in enumerate(order) if tokens[id]), len(order))
        self.end = np.zeros(len(tokens), np.int64)  # the node of each token
        symbols, children = [0], []
        nodes = [(first, len(order))]
        depth = 0
        level = 1  # the first node of the next level
        for node, (begin, stop) in enumerate(nodes):  # grows in the loop
            if node == level:
                depth, level = depth + 1, len(nodes)
            children.append(len(nodes))
            while begin < stop and len(tokens[order[begin]]) == depth:
                self.end[order[begin]] = node
                begin += 1
            while begin < stop:
                symbol = tokens[order[begin]][depth]
                after = begin + 1
                while after < stop and tokens[order[after]][depth] == symbol:
                    after += 1
                nodes.append((begin, after))
                symbols.append(symbol)
                begin = after
        self.symbols = np.array(symbols)  # the last byte of each node
        self.children = np.array([*children, len(nodes)])


class TokenAutomaton:
    """An automaton over bytes, used over the tokens of a vocabulary.

    Attributes:
        start: the first state.
        accepting: (S,) whether the text may end in the state.
        steps: (S,) the least number of tokens from each state to an accepting one; -1 if no tokens
            lead from it to one, or none from the start to it.
    """

    def __init__(self, automaton: Automaton, tokens: Sequence[bytes]) -> None:
        self._automaton = automaton
        self._tokens = tokens
        self._trie = Trie(tokens)
        self._next: dict[int, npt.NDArray[np.int32]] = {}
        self._most_kept = max(_KEPT // (4 * max(len(tokens), 1)), 1)
        self.start = automaton.start
        self.accepting = automaton.accepting
        self.steps = self._steps()

    def after_tokens(self, state: int) -> npt.NDArray[np.int32]:
        """The state after each token of the vocabulary, (V,); 0 where no match of tokens begins so.
        Not to be changed.
        """
        found = self._next.get(state)
        if found is None:
            found = self._walk(state)
            found[self.steps[found] < 0] = 0
            if len(self._next) == self._most_kept:
                self._next.clear()
            self._next[state] = found
        return found

    def after(self, state: int, token: int) -> int:
        """The state after a token; 0 if no match of tokens begins so."""
        text = self._tokens[token]
        if not text:
            return 0
        for byte in text:
            state = int(self._automaton.table[state, byte])
        return state if self.steps[state] >= 0 else 0

    def _walk(self, state: int) -> npt.NDArray[np.int32]:
        """The state after each token, (V,): down the trie, level by level, where a match is still
        possible for some further bytes.
        """
        trie = self._trie
        at = np.zeros(len(trie.symbols), np.int32)
        nodes = np.zeros(1, np.int64)
        states = np.array([state], np.int32)
        while len(nodes):
            begins = trie.children[nodes]
            counts = trie.children[nodes + 1] - begins
            ends = np.cumsum(counts)
            # Child number 0, 1, ... of each node, one after the other.
            nodes = np.repeat(begins - ends + counts, counts) + np.arange(ends[-1])
            states = self._automaton.table[np.repeat(states, counts), trie.symbols[nodes]]
            live = states > 0
            nodes, states = nodes[live], states[live]
            at[nodes] = states
        return at[trie.end]

    def _steps(self) -> npt.NDArray[np.int64]:
        sources, targets = [], []
        seen = {0, self.start}
        waiting = [self.start] if self.start else []
        while waiting:
            state = waiting.pop()
            found = np.unique(self._walk(state))
            found = found[found > 0]
            sources.append(np.full(len(found), state))
            targets.append(found)
            new = set(found.tolist()) - seen
            seen |= new
            waiting += new
        if not sources:
            return np.full(len(self.accepting), -1)
        reached = np.isin(np.arange(len(self.accepting)), list(seen))
        return steps_to_accept(
            np.concatenate(sources), np.concatenate(targets), self.accepting & reached
        )
