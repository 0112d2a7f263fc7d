"""The kinds of values that the fields of a configuration take."""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from byhand.errors import UserError, suggestion


def require_whole_number(name: str, value: Any, least: int | None = None) -> None:
    """UserError naming the argument unless it is an integer, of at least ``least`` if given."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise UserError(f"{name} must be a whole number, not {value!r}")
    if least is not None and value < least:
        raise UserError(f"{name} must be at least {least}, not {value}")


class Values:
    """The values a field takes."""

    metavar: str | None = "N"

    def accept(self, value: Any) -> Any:
        """`value` as a plain Python object. TypeError or ValueError with the words that follow
        "must be"."""
        raise NotImplementedError

    def parse(self, text: str) -> Any:
        """The value that `text` on the command line means. TypeError if it cannot be read as one,
        ValueError if it is out of range, each with the words that follow "must be"."""
        raise NotImplementedError


class WholeNumber(Values):
    """Integers of at least `least`, Python's or NumPy's; a bool is not accepted."""

    def __init__(self, least: int) -> None:
        self.least = least

    def accept(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise TypeError("a whole number")
        if value < self.least:
            raise ValueError(f"at least {self.least}")
        return int(value)

    def parse(self, text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise TypeError("a whole number") from None
        return self.accept(value)


class Number(Values):
    """Finite real numbers for which `good` holds; `words` say in what range."""

    def __init__(self, words: str = "", good: Callable[[float], bool] = lambda x: True) -> None:
        self.words = words
        self.good = good

    def accept(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError("a finite number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise ValueError("a finite number")
        if not self.good(number):
            raise ValueError(self.words)
        return number

    def parse(self, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise TypeError("a number")
        return self.accept(value)


class WholeNumbers(Values):
    """Tuples of integers of at least `least`; on the command line `64,32`."""

    metavar = "N,N,..."

    def __init__(self, least: int) -> None:
        self.item = WholeNumber(least)

    def accept(self, value: Any) -> tuple[int, ...]:
        if not isinstance(value, (tuple, list)):
            raise TypeError("a sequence of whole numbers")
        try:
            return tuple(self.item.accept(item) for item in value)
        except (TypeError, ValueError) as error:
            least = "" if isinstance(error, TypeError) else f" of {error}"
            raise type(error)(f"a sequence of whole numbers{least}") from None

    def parse(self, text: str) -> tuple[int, ...]:
        try:
            return self.accept([int(part) for part in text.split(",")])
        except ValueError as error:
            if str(error).startswith("a sequence"):
                raise
            raise TypeError("whole numbers with commas between them") from None


class Texts(Values):
    """Tuples of strings, no two of them equal; on the command line `a,b`."""

    metavar = "TEXT,TEXT,..."

    def accept(self, value: Any) -> tuple[str, ...]:
        if not isinstance(value, (tuple, list)) or not all(isinstance(s, str) for s in value):
            raise TypeError("a sequence of strings")
        if len(set(value)) < len(value):
            raise ValueError("a sequence of different strings")
        return tuple(value)

    def parse(self, text: str) -> tuple[str, ...]:
        return self.accept(text.split(","))


class Choice(Values):
    """One of a few strings."""

    metavar = None

    def __init__(self, options: Sequence[str]) -> None:
        self.options = tuple(options)

    def accept(self, value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError(_either(self.options))
        if value not in self.options:
            # Among a few options the one that was meant is found at a glance.
            near = suggestion(value, self.options) if len(self.options) > 3 else ""
            raise ValueError(_either(self.options) + near)
        return value

    def parse(self, text: str) -> str:
        return text  # argparse compares it with the choices and lists them


class Flag(Values):
    """True or False; on the command line `--name` or `--no-name`."""

    metavar = None

    def accept(self, value: Any) -> bool:
        of_numpy = getattr(value, "shape", None) == () and str(value.dtype) == "bool"
        if not isinstance(value, bool) and not of_numpy:
            raise TypeError("a bool")
        return bool(value)


class Text(Values):
    """Any string."""

    metavar = "TEXT"

    def accept(self, value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError("a string")
        return value

    def parse(self, text: str) -> str:
        return text


class JsonObject(Values):
    """Dicts whose keys are strings and whose values are JSON data; on the command line as JSON."""

    metavar = "JSON"

    def accept(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise TypeError("a dict with strings for keys")
        try:
            made = json.loads(json.dumps(dict(value), allow_nan=False))
        except (TypeError, ValueError, RecursionError):
            raise TypeError("a dict of JSON data") from None
        assert isinstance(made, dict)
        return made

    def parse(self, text: str) -> dict[str, Any]:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise TypeError('a JSON object such as {"factor": 2.0}') from None
        return self.accept(value)


def _either(options: Sequence[str]) -> str:
    """a, b or c"""
    return " or ".join([", ".join(options[:-1]), options[-1]] if len(options) > 1 else options)
