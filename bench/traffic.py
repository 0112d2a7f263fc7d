"""Reads the TRAFFIC lines of the kernels' contracts: bytes moved and operations, said once.

A contract is the comment above a kernel's declaration in csrc/**/<op>.h, and TRAFFIC is its last
line, which may go on over several. The form is

    TRAFFIC  forward 2RC (3RC with add), backward RC + 2RC f32 elements; any remark

that is, `;` between parts, and in each part a comma between clauses and the unit at the end:
`elements` (read and written in memory) or `operations` (floating point). A remark in parentheses
may follow the unit; a part that does not end in a unit is a remark too. A clause is

    [NAME] COUNT (COUNT with ARGUMENT) ...

NAME is a part of the kernel's name: `forward` is the clause of layernorm_forward, `clip` that of
clip. A clause without a name belongs to every kernel that the contract describes. COUNT is a sum of
products of integers and of the capital letters of the SHAPES line. The COUNT in parentheses
replaces it where the optional argument is given (or the flag is set). A summand of elements ends in
the type of the elements where that is not T, the type of the op's arrays: `f32`, `bf16`, `i64`, or
the name of the argument whose type counts, as in `6N f32 + N g`. A summand of operations may end in
an argument that multiplies it.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CSRC = Path(__file__).parents[1] / "csrc"
UNITS = ("elements", "operations")
BYTES = {"f32": 4, "bf16": 2, "i64": 8}


class MalformedTraffic(ValueError):
    """A TRAFFIC line that does not have the form above; the message names the line."""


@dataclass(frozen=True)
class Term:
    """A product of sizes, and what type its elements have: "" for the op's own."""

    factors: tuple[int | str | tuple[Term, ...], ...]
    type: str = ""

    def count(self, sizes: Mapping[str, int]) -> int:
        return math.prod(_value(factor, sizes) for factor in self.factors)


def _value(factor: int | str | tuple[Term, ...], sizes: Mapping[str, int]) -> int:
    if isinstance(factor, int):
        return factor
    if isinstance(factor, str):
        return sizes[factor]
    return sum(term.count(sizes) for term in factor)


@dataclass(frozen=True)
class Clause:
    """What one kernel moves or computes, and what instead where an optional argument is given."""

    name: str  # a part of the kernel's name, or ""
    terms: tuple[Term, ...]
    instead: dict[str, tuple[Term, ...]]

    def chosen(self, given: Mapping[str, Any]) -> tuple[Term, ...]:
        for argument, terms in self.instead.items():
            if given.get(argument) is not None and given.get(argument) is not False:
                return terms
        return self.terms

    def fits(self, kernel: str) -> bool:
        return not self.name or f"_{self.name}_" in f"_{kernel}_"


# --- What the benches ask -----------------------------------------------------------------------


def bytes_moved(
    kernel: str, sizes: Mapping[str, int], given: Mapping[str, Any] | None = None, itemsize: int = 4
) -> int:
    """Bytes that one call of `kernel` reads and writes.

    sizes: the letters of the contract, such as {"R": 768, "C": 128}. given: optional arguments of
    the call by name; None and False count as absent. itemsize: bytes of an element of T; also of an
    argument that decides a type and is not in `given`. KeyError for a kernel without a contract or
    a clause for its elements.
    """
    given = given or {}

    def width(type: str) -> int:
        if type in BYTES or not type:
            return BYTES.get(type, itemsize)
        array = given.get(type)
        return itemsize if array is None else int(array.dtype.itemsize)

    terms = _clause(kernel, "elements").chosen(given)
    return sum(term.count(sizes) * width(term.type) for term in terms)


def operations(
    kernel: str, sizes: Mapping[str, int], given: Mapping[str, Any] | None = None
) -> int:
    """Floating-point operations of one call of `kernel`; the arguments are those of bytes_moved."""
    terms = _clause(kernel, "operations").chosen(given or {})
    return sum(term.count(sizes) for term in terms)


def counts_operations(kernel: str) -> bool:
    """Whether the contract counts operations: the kernel is bound by arithmetic, not by memory."""
    return any(clause.fits(kernel) for clause in contracts()[kernel]["operations"])


def _clause(kernel: str, unit: str) -> Clause:
    """The clause of a kernel; the one with the longest name where several fit."""
    fitting = [clause for clause in contracts()[kernel][unit] if clause.fits(kernel)]
    if not fitting:
        raise KeyError(f"the contract of {kernel} counts no {unit}")
    return max(fitting, key=lambda clause: len(clause.name))


@functools.cache
def contracts() -> dict[str, dict[str, list[Clause]]]:
    """The clauses of every kernel under csrc/, by kernel and unit."""
    found: dict[str, dict[str, list[Clause]]] = {}
    for path in sorted(CSRC.rglob("*.h")):
        for kernel, line in traffic_lines(path.read_text(encoding="utf-8")):
            try:
                found[kernel] = parse(line)
            except MalformedTraffic as error:
                raise MalformedTraffic(f"{path.relative_to(CSRC.parent)}: {error}") from None
    return found


# --- Reading ------------------------------------------------------------------------------------


def traffic_lines(header: str) -> Iterator[tuple[str, str]]:
    """(kernel, the text of its TRAFFIC line) for every kernel that a header declares."""
    text, reading = "", False
    for line in header.splitlines():
        comment = re.match(r"\s*//\s?(.*)", line)
        if comment:
            keyword = re.match(r"([A-Z]{4,})\s+(.*)", comment[1])
            if keyword:
                reading = keyword[1] == "TRAFFIC"
                text = keyword[2] if reading else text
            elif reading:
                text += " " + comment[1].strip()
            continue
        reading = False
        declared = re.match(r"void (\w+)\(", line)
        if declared and text:
            yield declared[1], text


def parse(line: str) -> dict[str, list[Clause]]:
    """The clauses of a TRAFFIC line by unit. Raises MalformedTraffic."""
    found: dict[str, list[Clause]] = {unit: [] for unit in UNITS}
    for part in line.split(";"):
        counted = re.fullmatch(rf"(.*)\b({'|'.join(UNITS)})(\s*\([^()]*\))?\s*", part)
        if counted:
            clauses = re.split(r",(?![^(]*\))", counted[1])
            found[counted[2]] += [_parse_clause(text.strip(), counted[2], line) for text in clauses]
    if not any(found.values()):
        raise MalformedTraffic(f"TRAFFIC counts neither {' nor '.join(UNITS)}: {line!r}")
    return found


def _parse_clause(text: str, unit: str, line: str) -> Clause:
    alternatives = re.findall(r"\(([^()]+) with (\w+)\)", text)
    text = re.sub(r"\s*\([^()]+ with \w+\)", "", text).strip()
    named = re.match(r"([a-z_]+)\s+(.+)", text)
    name, count = (named[1], named[2]) if named else ("", text)
    instead = {argument: _Sum(other, unit, line).terms() for other, argument in alternatives}
    return Clause(name, _Sum(count, unit, line).terms(), instead)


class _Sum:
    """The sum of products in `text`, such as 2B(HT + GS)D + BHT f32."""

    def __init__(self, text: str, unit: str, line: str):
        self._unit = unit
        self._line = line
        self._tokens = re.findall(r"\d+|[A-Z]|[a-z]\w*|\S", text)

    def terms(self) -> tuple[Term, ...]:
        terms = self._sum()
        if self._tokens:
            raise self._malformed()
        return terms

    def _sum(self) -> tuple[Term, ...]:
        terms = [self._term()]
        while self._tokens[:1] == ["+"]:
            self._tokens.pop(0)
            terms.append(self._term())
        return tuple(terms)

    def _term(self) -> Term:
        factors: list[int | str | tuple[Term, ...]] = []
        while self._tokens and re.fullmatch(r"\d+|[A-Z]|\(", self._tokens[0]):
            token = self._tokens.pop(0)
            if token == "(":
                factors.append(self._sum())
                if not self._tokens or self._tokens.pop(0) != ")":
                    raise self._malformed()
            else:
                factors.append(int(token) if token.isdigit() else token)
        if not factors:
            raise self._malformed()
        name = ""
        if self._tokens and re.fullmatch(r"[a-z]\w*", self._tokens[0]):
            name = self._tokens.pop(0)
        if self._unit == "elements":
            return Term(tuple(factors), name)
        return Term((*factors, name) if name else tuple(factors))

    def _malformed(self) -> MalformedTraffic:
        return MalformedTraffic(f"TRAFFIC has a count that cannot be read: {self._line!r}")
