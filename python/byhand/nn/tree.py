"""The tree of a module: its parts, and the parameters and buffers in them."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from byhand.nn.parameter import Buffer, Parameter

Match = str | Iterable[str] | Callable[[str], bool] | None


def walk(module: Any, path: str, seen: set[int], kind: type) -> Iterator[tuple[str, Any]]:
    """(path, object) of a module (an instance of ``kind``) and of everything in it, each once."""
    if id(module) in seen:
        return
    seen.add(id(module))
    yield path, module
    prefix = f"{path}." if path else ""
    for name, part in public_parts(module, kind):
        if isinstance(part, kind):
            yield from walk(part, prefix + name, seen, kind)
        elif id(part) not in seen:
            seen.add(id(part))
            yield prefix + name, part


def public_parts(module: Any, kind: type) -> Iterator[tuple[str, Any]]:
    # A list: another thread that trains the module adds what it saves to its attributes.
    attributes = list(vars(module).items())
    public = ((name, a) for name, a in attributes if not name.startswith("_"))
    return _parts(public, kind)


def _parts(items: Iterable[tuple[Any, Any]], kind: type) -> Iterator[tuple[str, Any]]:
    for key, value in items:
        if isinstance(value, (kind, Parameter, Buffer)):
            yield str(key), value
        elif isinstance(value, (list, tuple, dict)):
            inside = value.items() if isinstance(value, dict) else enumerate(value)
            for name, part in _parts(inside, kind):
                yield f"{key}.{name}", part


def matcher(match: Match) -> Callable[[str], bool]:
    if match is None:
        return lambda name: True
    if callable(match):
        return match
    several = isinstance(match, Iterable) and not isinstance(match, str)
    patterns: list[Any] = [*match] if several else [match]
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(
            f"paths must be given as a pattern, a list of patterns or a function, got {match!r}"
        )
    return lambda name: any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def repeated(names: list[str]) -> str | None:
    """The first name that occurs twice, or None."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def some(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def every_path(module: Any, kind: type) -> Iterator[tuple[str, Any]]:
    """(path, parameter or buffer) under every path, so that a shared one comes several times."""
    yield from _every_path(module, "", (), kind)


def _every_path(
    module: Any, path: str, above: tuple[int, ...], kind: type
) -> Iterator[tuple[str, Any]]:
    if id(module) in above:  # a module that contains itself
        return
    prefix = f"{path}." if path else ""
    for name, part in public_parts(module, kind):
        if isinstance(part, kind):
            yield from _every_path(part, prefix + name, (*above, id(module)), kind)
        else:
            yield prefix + name, part


class Snapshot:
    """The parts of a module as they are now, to notice quickly whether one was replaced, added or
    removed.
    """

    def __init__(self, module: Any, kind: type):
        self._sizes: list[tuple[Any, int]] = []
        self._items: list[tuple[Any, Any, Any]] = []
        seen: set[int] = set()
        for _, part in walk(module, "", seen, kind):
            if isinstance(part, kind):
                self._add(vars(part), kind)

    def _add(self, container: Any, kind: type) -> None:
        self._sizes.append((container, len(container)))
        items = container.items() if isinstance(container, dict) else enumerate(container)
        for key, value in items:
            if isinstance(key, str) and key.startswith("_"):
                continue
            if isinstance(value, (list, tuple, dict)):
                self._items.append((container, key, value))
                self._add(value, kind)
            elif isinstance(value, (kind, Parameter, Buffer)):
                self._items.append((container, key, value))

    def holds(self) -> bool:
        """False if the parts may have changed since."""
        try:  # loops, not all(...): optimizers ask before each step
            for container, size in self._sizes:
                if len(container) != size:
                    return False
            for container, key, value in self._items:
                if container[key] is not value:
                    return False
        except (KeyError, IndexError):
            return False
        return True
