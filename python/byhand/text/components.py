"""Reads the components of a tokenizer's description: dicts with a "type", as in tokenizer.json."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from byhand.errors import UserError, suggestion

Part = TypeVar("Part")
MAX_DEPTH = 64

_NAMES = {str: "a string", bool: "true or false", int: "a whole number", list: "a list"}


def field(description: dict[str, Any], name: str, kind: type, default: Any = None) -> Any:
    """description[name], which must be a `kind`. `default`, unless it is None, is the value of a
    name that is left out or null.
    """
    value = description.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        given = f"not {value!r:.60}" if name in description else "which it lacks"
        raise UserError(f"{description.get('type')!s:.60}: {name} must be {_NAMES[kind]}, {given}")
    return value


def encode(text: str) -> bytes:
    """The UTF-8 of a text in a description. UserError if it has half of a surrogate pair."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"the tokenizer's description has half of a surrogate pair in {text!r:.60}"
        ) from error


# The name under which a Sequence of each part lists its components.
_MEMBERS = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "post-processor": "processors",
    "decoder": "decoders",
}


def flatten(description: object, part: str) -> list[dict[str, Any]]:
    """The components of a description in order, without its sequences. UserError if one is no
    object with a type.

    Args:
        description: a dict, or None for no component.
        part: "normalizer", "pre_tokenizer", "post-processor" or "decoder".
    """
    return list(_flattened(description, part, 0))


def _flattened(description: object, part: str, depth: int) -> Iterator[dict[str, Any]]:
    if description is None:
        return
    if not isinstance(description, dict) or not isinstance(description.get("type"), str):
        raise UserError(f"a {part} must be an object with a type, not {description!r:.60}")
    if description["type"] != "Sequence":
        yield description
    elif depth == MAX_DEPTH:
        raise UserError(f"the {part} nests sequences more than {MAX_DEPTH} deep")
    else:
        for member in field(description, _MEMBERS[part], list):
            if member is None:
                raise UserError(f"a {part} must be an object with a type, not null")
            yield from _flattened(member, part, depth + 1)


def choose(
    table: Mapping[str, Callable[[dict[str, Any]], Part]], description: dict[str, Any], part: str
) -> Part:
    """What the table's function for the description's type makes of it."""
    kind = description["type"]
    if kind not in table:
        raise UserError(f"the {part} {kind!r:.60} is not supported{suggestion(kind, table)}")
    with _user_errors(kind):
        return table[kind](description)


@contextmanager
def _user_errors(what: str) -> Iterator[None]:
    """Errors of the native module as UserErrors that name the component."""
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{what}: {error}") from error
