r"""Reads regular expressions in the syntax of Python's module `re`.

Supported are literals, `.`, classes such as [a-z] and [^"\\], the escapes \d \D \w \W \s \S, \n
\t \r \f \v \a \0, \xHH, \uHHHH and \UHHHHHHHH, alternatives, groups (plain, (?:...) and
(?P<name>...)), and the repeats ? * + {m} {m,} {,n} {m,n}, lazy ones too. ^ and $ are allowed at the
ends of alternatives. What depends on more than the text of a match is refused: references to
groups, looking ahead and behind, word boundaries, flags.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from byhand.errors import UserError
from byhand.generation.automata import characters
from byhand.generation.automata.characters import Ranges
from byhand.generation.automata.expressions import MOST_STATES, Expressions, Node

_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a"}
_HEX = {"x": 2, "u": 4, "U": 8}
_DEEPEST = 100  # groups inside groups

# White space and line ends of ECMA-262, whose regular expressions JSON schemas use.
_ECMA_SPACE = "\t\n\v\f\r \xa0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff" + "".join(
    map(chr, range(0x2000, 0x200B))
)
ECMA: Mapping[str, Ranges] = {
    "d": characters.of("0123456789"),
    "w": ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)),
    "s": characters.of(_ECMA_SPACE),
    ".": characters.complement(characters.of("\n\r\u2028\u2029")),
}


@dataclass(frozen=True)
class _Sequence:
    """An alternative, and whether it is tied to the beginning and the end of the text."""

    node: Node
    begins: bool
    ends: bool


def parse(pattern: str, make: Expressions, search: bool = False, ecma: bool = False) -> Node:
    r"""The expression of the texts that `re.fullmatch` matches, or with `search` `re.search`.

    With `ecma` the classes \d, \w, \s and . are those of ECMA-262, without Unicode's digits and
    letters. UserError that says where the pattern is wrong or beyond what is supported.
    """
    if not isinstance(pattern, str):
        raise UserError(f"a regular expression is a str, not {pattern!r:.60}")
    return _Parser(pattern, make, ecma).whole(search)


class _Parser:
    def __init__(self, pattern: str, make: Expressions, ecma: bool) -> None:
        self.pattern = pattern
        self.make = make
        self.ecma = ecma
        self.at = 0
        self.depth = 0
        for position, character in enumerate(pattern):
            if "\ud800" <= character <= "\udfff":
                raise self.error("half of a surrogate pair", position)

    def error(self, what: str, at: int | None = None) -> UserError:
        position = self.at if at is None else at
        shown = self.pattern if len(self.pattern) <= 60 else self.pattern[:57] + "..."
        return UserError(f"the regular expression {shown!r} has {what} at position {position}")

    def peek(self, text: str) -> bool:
        return self.pattern.startswith(text, self.at)

    def take(self, text: str) -> bool:
        """Whether `text` comes next; it is read if so."""
        found = self.peek(text)
        self.at += len(text) if found else 0
        return found

    def next(self, wanted: str) -> str:
        if self.at == len(self.pattern):
            raise self.error(f"an end where {wanted} is missing")
        self.at += 1
        return self.pattern[self.at - 1]

    # --- Structure -------------------------------------------------------------------------------

    def whole(self, search: bool) -> Node:
        alternatives = self.alternatives()
        if self.at < len(self.pattern):
            raise self.error("a ) without its (")
        anything = [self.make.anything] if search else []
        return self.make.either(
            self.make.sequence(
                [*([] if one.begins else anything), one.node, *([] if one.ends else anything)]
            )
            for one in alternatives
        )

    def alternatives(self) -> list[_Sequence]:
        found = [self.sequence()]
        while self.take("|"):
            found.append(self.sequence())
        return found

    def sequence(self) -> _Sequence:
        begins = ends = False
        nodes: list[Node] = []
        while self.at < len(self.pattern) and not (self.peek("|") or self.peek(")")):
            start = self.at
            if self.take("^") or self.take("\\A"):
                if nodes or self.depth:
                    raise self.error("a ^ that is not the beginning of the text", start)
                begins = True
            elif self.take("$") or self.take("\\Z"):
                ends = True
            elif ends:
                break
            else:
                nodes.append(self.repeated(self.item()))
        if ends and (self.depth or not (self.at == len(self.pattern) or self.peek("|"))):
            raise self.error("a $ that is not the end of the text", self.at - 1)
        return _Sequence(self.make.sequence(nodes), begins, ends)

    def item(self) -> Node:
        start = self.at
        c = self.next("a character")
        if c == "(":
            return self.group(start)
        if c == "[":
            return self.make.character(self.character_class(start))
        if c == ".":
            newline = characters.of("\n")
            return self.make.character(ECMA["."] if self.ecma else characters.complement(newline))
        if c in "*+?" or (c == "{" and self.bounds(start) is not None):
            raise self.error("a repeat of nothing", start)
        self.at = start + 1  # a { that bounds nothing is a literal
        return self.make.character(self.escape(start) if c == "\\" else characters.of(c))

    def group(self, start: int) -> Node:
        if self.take("?"):
            name = re.compile(r"P?<[^\W\d]\w*>").match(self.pattern, self.at)
            if name and (name[0].startswith("P") or self.ecma):
                self.at = name.end()
            elif not self.take(":"):
                raise self.error("a group with (?, of a kind that is not supported,", start)
        self.depth += 1
        if self.depth > _DEEPEST:
            raise self.error(f"more than {_DEEPEST} groups inside each other", start)
        node = self.make.either(one.node for one in self.alternatives())
        self.depth -= 1
        if not self.take(")"):
            raise self.error("a ( without its )", start)
        return node

    def repeated(self, node: Node) -> Node:
        start = self.at
        bounds = self.bounds(start)
        if bounds is None:
            return node
        if self.take("+"):
            raise self.error("a possessive repeat, which is not supported,", start)
        self.take("?")
        if self.bounds(self.at) is not None:
            raise self.error("a repeat of a repeat", start)
        return self.make.repeat(node, *bounds)

    def bounds(self, start: int) -> tuple[int, int | None] | None:
        """What the repeat at `start` says, read to its end; None if there is none."""
        match = re.compile(r"[*+?]|\{(\d*)(,?)(\d*)\}", re.ASCII).match(self.pattern, start)
        if match is None or match[0] == "{}":
            return None
        self.at = match.end()
        if match[0] in "*+?":
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[match[0]]
        least, comma, most = match.groups()
        if any(len(bound) > 6 or int(bound or 0) > MOST_STATES for bound in (least, most)):
            raise self.error(f"a repeat of more than {MOST_STATES} times", start)
        low = int(least or 0)
        high = int(most) if most else None if comma else low
        if high is not None and high < low:
            raise self.error("a repeat whose least number is above its greatest", start)
        return low, high

    # --- Characters ------------------------------------------------------------------------------

    def escape(self, start: int, in_class: bool = False) -> Ranges:
        """The characters of the escape whose backslash was read."""
        c = self.next("what is escaped")
        if c in "dwsDWS":
            kind = c.lower()
            ranges = ECMA[kind] if self.ecma else characters.matching(f"\\{kind}")
            return ranges if c == kind else characters.complement(ranges)
        if c in _CONTROLS:
            return characters.of(_CONTROLS[c])
        if c == "b" and in_class:
            return characters.of("\b")
        if c == "0" and not re.match("[0-7]", self.pattern[self.at :]):
            return characters.of("\0")
        if c in _HEX:
            digits = self.pattern[self.at : self.at + _HEX[c]]
            if not re.fullmatch(f"[0-9a-fA-F]{{{_HEX[c]}}}", digits):
                raise self.error(f"a \\{c} without its {_HEX[c]} hexadecimal digits", start)
            self.at += len(digits)
            code = int(digits, 16)
            if not characters.contains(characters.ALL, code):
                raise self.error(f"a \\{c}{digits} that is no character", start)
            return ((code, code),)
        if c.isascii() and c.isalnum():
            raise self.error(f"a \\{c}, which is not supported,", start)
        return characters.of(c)

    def character_class(self, start: int) -> Ranges:
        inverted = self.take("^")
        parts: list[Ranges] = []
        first = self.at
        while self.at == first or not self.take("]"):
            if self.ecma and self.take("]"):  # there [] is a class without characters
                break
            at = self.at
            low = self.class_item(start)
            if not self.peek("-") or self.pattern[self.at + 1 : self.at + 2] in ("]", ""):
                parts.append(low)
                continue
            self.at += 1
            high = self.class_item(start)
            ends = [ranges[0] for ranges in (low, high) if len(ranges) == 1]
            if len(ends) < 2 or any(a != b for a, b in ends) or ends[0] > ends[1]:
                raise self.error("a wrong range of characters", at)
            parts.append(((ends[0][0], ends[1][0]),))
        found = characters.union(*parts)
        return characters.complement(found) if inverted else found

    def class_item(self, start: int) -> Ranges:
        if self.at == len(self.pattern):
            raise self.error("a [ without its ]", start)
        at = self.at
        c = self.next("a character")
        return self.escape(at, in_class=True) if c == "\\" else characters.of(c)
