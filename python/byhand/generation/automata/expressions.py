"""Regular expressions as trees, and the automaton of one by derivatives.

The derivative of a language with respect to a character c is what may follow c in its words that
begin with c. It is a regular expression again, and up to simple identities an expression has
finitely many derivatives of derivatives: they are the states of its automaton.
Source: Brzozowski 1964, "Derivatives of regular expressions", J. ACM 11(4); in the form of Owens,
Reppy and Turon 2009, "Regular-expression derivatives re-examined", J. Functional Programming 19(2).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from byhand.errors import UserError
from byhand.generation.automata import characters
from byhand.generation.automata.characters import ALL, Ranges

MOST_STATES = 20_000

States = npt.NDArray[np.int32]


class Node:
    """A regular expression. Two equal ones of one `Expressions` are one object.

    Attributes:
        kind: "nothing" (no word), "empty" (the empty word), "character", "sequence", "either",
            "both" or "repeat".
        parts: of a character its set, of a repeat (node, least, most or None), else the nodes.
        nullable: whether the empty word matches.
        number: counts the nodes of an `Expressions`.
    """

    __slots__ = ("kind", "nullable", "number", "parts")

    def __init__(self, kind: str, parts: Any, nullable: bool, number: int) -> None:
        self.kind = kind
        self.parts = parts
        self.nullable = nullable
        self.number = number


@dataclass(frozen=True)
class Automaton:
    """A deterministic automaton; from state 0 nothing matches.

    Attributes:
        table: (S, K) the state after each symbol.
        accepting: (S,) whether the text may end in the state.
        start: the first state.
    """

    table: States
    accepting: npt.NDArray[np.bool_]
    start: int


class Expressions:
    """Makes nodes, simplified as far as the identities of derivatives need."""

    def __init__(self) -> None:
        self._made: dict[Any, Node] = {}
        self._derivatives: dict[tuple[int, int], Node] = {}
        self.nothing = self._node("nothing", (), False)
        self.empty = self._node("empty", (), True)
        self.anything = self.repeat(self.character(ALL), 0, None)

    def _node(self, kind: str, parts: Any, nullable: bool) -> Node:
        key = (kind, *(part.number if isinstance(part, Node) else part for part in parts))
        if key not in self._made:
            self._made[key] = Node(kind, parts, nullable, len(self._made))
        return self._made[key]

    def character(self, ranges: Ranges) -> Node:
        """One character of the set."""
        ranges = characters.intersection(ranges, ALL)
        return self._node("character", ranges, False) if ranges else self.nothing

    def text(self, text: str) -> Node:
        """Exactly this text."""
        return self.sequence([self.character(((ord(c), ord(c)),)) for c in text])

    def sequence(self, nodes: Iterable[Node]) -> Node:
        """One after the other; kept as pairs (the first, the rest)."""
        *earlier, made = [self.empty, *nodes]
        parts: list[Node] = []
        for node in earlier:
            while node.kind == "sequence":
                parts.append(node.parts[0])
                node = node.parts[1]
            parts.append(node)
        if made is self.nothing or self.nothing in parts:
            return self.nothing
        for node in reversed(parts):
            if made is self.empty or node is self.empty:
                made = made if node is self.empty else node
            else:
                made = self._node("sequence", (node, made), node.nullable and made.nullable)
        return made

    def either(self, nodes: Iterable[Node]) -> Node:
        """One of them."""
        parts = self._flat("either", nodes)
        parts.pop(self.nothing, None)
        if self.anything in parts:
            return self.anything
        sets = [node.parts for node in parts if node.kind == "character"]
        if len(sets) > 1:
            parts = {node: None for node in parts if node.kind != "character"}
            parts[self.character(characters.union(*sets))] = None
        if self.empty in parts and any(node.nullable for node in parts if node is not self.empty):
            del parts[self.empty]
        if len(parts) < 2:
            return next(iter(parts), self.nothing)
        nullable = any(node.nullable for node in parts)
        return self._node("either", _in_order(parts), nullable)

    def both(self, nodes: Iterable[Node]) -> Node:
        """What matches all of them."""
        parts = self._flat("both", nodes)
        parts.pop(self.anything, None)
        if self.nothing in parts:
            return self.nothing
        if len(parts) < 2:
            return next(iter(parts), self.anything)
        return self._node("both", _in_order(parts), all(node.nullable for node in parts))

    def _flat(self, kind: str, nodes: Iterable[Node]) -> dict[Node, None]:
        parts: dict[Node, None] = {}
        for node in nodes:
            parts.update(dict.fromkeys(node.parts if node.kind == kind else (node,)))
        return parts

    def repeat(self, node: Node, least: int, most: int | None) -> Node:
        """`least` to `most` times; None is any number of times."""
        if node.nullable:
            least = 0
        if most == 0 or node is self.empty or (node is self.nothing and least == 0):
            return self.empty
        if node is self.nothing or (least, most) == (1, 1):
            return node
        if node.kind == "repeat" and node.parts[1:] == (0, None):
            return node
        return self._node("repeat", (node, least, most), least == 0)

    def optional(self, node: Node) -> Node:
        return self.repeat(node, 0, 1)

    def derivative(self, node: Node, code: int) -> Node:
        """What may follow the character with this code point."""
        key = (node.number, code)
        found = self._derivatives.get(key)
        if found is None:
            found = self._derivatives[key] = self._derivative(node, code)
        return found

    def _derivative(self, node: Node, code: int) -> Node:
        if node.kind == "character":
            return self.empty if characters.contains(node.parts, code) else self.nothing
        if node.kind == "either":
            return self.either(self.derivative(part, code) for part in node.parts)
        if node.kind == "both":
            return self.both(self.derivative(part, code) for part in node.parts)
        if node.kind == "repeat":
            inner, least, most = node.parts
            rest = self.repeat(inner, max(least - 1, 0), None if most is None else most - 1)
            return self.sequence([self.derivative(inner, code), rest])
        if node.kind != "sequence":
            return self.nothing
        found = []  # a loop, because a long sequence would exceed the depth of recursion
        while node.kind == "sequence":
            first, rest = node.parts
            found.append(self.sequence([self.derivative(first, code), rest]))
            if not first.nullable:
                return self.either(found)
            node = rest
        return self.either([*found, self.derivative(node, code)])

    def automaton(self, node: Node) -> tuple[Automaton, npt.NDArray[np.int32]]:
        """The automaton of an expression over classes of characters, and the class of every code
        point (0x110000,). UserError if it has more than MOST_STATES states.
        """
        of_code, examples = characters.classes(_sets(node))
        numbers = {node: 0}
        order = [node]
        rows = []
        for state in order:  # grows in the loop
            after = [self.derivative(state, code) for code in examples]
            for new in after:
                if new not in numbers:
                    numbers[new] = len(order)
                    order.append(new)
            rows.append([numbers[new] for new in after])
            if len(order) > MOST_STATES:
                raise UserError(
                    f"the constraint is too large: its automaton has more than {MOST_STATES} states"
                )
        accepting = np.array([state.nullable for state in order])
        return _trimmed(np.array(rows, np.int32), accepting), of_code


def _in_order(nodes: Iterable[Node]) -> tuple[Node, ...]:
    return tuple(sorted(nodes, key=lambda node: node.number))


def _sets(node: Node) -> list[Ranges]:
    """The different sets of characters of an expression."""
    found: dict[Ranges, None] = {}
    seen = {node}
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if node.kind == "character":
            found[node.parts] = None
            continue
        new = {part for part in node.parts if isinstance(part, Node)} - seen
        seen |= new
        waiting += new
    return list(found)


def _trimmed(table: States, accepting: npt.NDArray[np.bool_]) -> Automaton:
    """The automaton that starts in the first row, with one state, 0, for all from which nothing
    matches.
    """
    sources, symbols = np.indices(table.shape).reshape(2, -1)
    live = steps_to_accept(sources, table[sources, symbols], accepting) >= 0
    number = np.where(live, np.cumsum(live), 0).astype(np.int32)
    dead = np.zeros((1, table.shape[1]), np.int32)
    return Automaton(
        np.concatenate([dead, number[table[live]]]),
        np.concatenate([[False], accepting[live]]),
        int(number[0]),
    )


def steps_to_accept(
    sources: npt.NDArray[Any], targets: npt.NDArray[Any], accepting: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """How many of the edges sources -> targets, (E,) each, lead at least from each state to an
    accepting one, (S,); -1 where none do.
    """
    order = np.argsort(targets, kind="stable")
    sources = sources[order]
    begins = np.searchsorted(targets[order], np.arange(len(accepting) + 1))
    distance = np.full(len(accepting), -1)
    frontier = np.flatnonzero(accepting)
    steps = 0
    while len(frontier):
        distance[frontier] = steps
        before = [sources[begins[state] : begins[state + 1]] for state in frontier]
        found = np.unique(np.concatenate(before))
        frontier = found[distance[found] < 0]
        steps += 1
    return distance
