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
    public = ((name, a) for name, a in vars(module).items() if not name.startswith("_"))
    for name, part in _parts(public, kind):
        if isinstance(part, kind):
            yield from walk(part, prefix + name, seen, kind)
        elif id(part) not in seen:
            seen.add(id(part))
            yield prefix + name, part


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
    patterns = [match] if isinstance(match, str) else list(match)
    return lambda name: any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def table(named: list[tuple[str, Parameter]]) -> str:
    """One line per parameter (path, shape, size), and the totals."""
    width = max([len(name) for name, _ in named] + [len("parameter")])
    lines = [f"{'parameter':{width}}  {'shape':>16}  {'size':>12}"]
    for name, p in named:
        frozen = "" if p.trainable else "  frozen"
        lines.append(f"{name:{width}}  {p.shape!s:>16}  {p.size:>12,}{frozen}")
    total = sum(p.size for _, p in named)
    trained = sum(p.size for _, p in named if p.trainable)
    lines.append(f"{total:,} parameters, {trained:,} of them trained")
    return "\n".join(lines)


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
