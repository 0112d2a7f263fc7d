"""Modules as text: the tree that ``print`` shows, and the table of parameters."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from byhand.nn import tree
from byhand.nn.parameter import Buffer, Parameter


def tree_of(module: Any, kind: type) -> str:
    """One line per module: its name, type and settings, how many numbers its parameters have, and
    their shapes. Equal neighbours in a list are shown once.
    """
    first: dict[int, str] = {}
    for path, part in tree.walk(module, "", set(), kind):
        if isinstance(part, Parameter):
            first[id(part)] = path
    return "\n".join(_lines(module, "", "", first, kind, ()))


def _lines(
    module: Any, name: str, path: str, first: dict[int, str], kind: type, above: tuple[int, ...]
) -> list[str]:
    if id(module) in above:
        return [f"{name}: {type(module).__name__} (contains itself)"]
    prefix = f"{path}." if path else ""
    own, parts = [], []
    for key, part in tree.public_parts(module, kind):
        if isinstance(part, kind):
            parts.append((key, part))
        else:
            own.append(_tensor(key, part, first.get(id(part), prefix + key), prefix + key))
    head = f"{name}: {_head(module)}" if name else _head(module)
    count = sum(p.size for p in module.parameters())
    if count:
        head += f", {count:,} parameters" if not name else f", {count:,}"
    lines = [head + (": " if own else "") + ", ".join(own)]
    below = (
        (key, _lines(part, key, prefix + key, first, kind, (*above, id(module))))
        for key, part in parts
    )
    for keys, shown in _grouped(below):
        shown[0] = keys + shown[0]
        lines += [f"  {line}" for line in shown]
    return lines


def _grouped(below: Iterator[tuple[str, list[str]]]) -> Iterator[tuple[str, list[str]]]:
    """Neighbours whose lines differ in the name only, once: "blocks.0 to blocks.3"."""
    unnamed = ((key, [lines[0].removeprefix(key), *lines[1:]]) for key, lines in below)
    for lines, group in itertools.groupby(unnamed, key=lambda item: item[1]):
        keys = [key for key, _ in group]
        numbered = all(key.rpartition(".")[2].isdigit() for key in keys)
        if len(keys) > 1 and numbered:
            yield f"{keys[0]} to {keys[-1]}, each", lines
        else:
            yield from ((key, list(lines)) for key in keys)


def _head(module: Any) -> str:
    """The type, with the settings that are plain values: Dropout(p=0.1)."""
    settings = [
        f"{key}={value!r}"
        for key, value in vars(module).items()
        if not key.startswith("_") and isinstance(value, (bool, int, float, str))
    ]
    return type(module).__name__ + (f"({', '.join(settings)})" if settings else "")


def _tensor(key: str, tensor: Parameter | Buffer, first: str, path: str) -> str:
    shown = f"{key} {tensor.shape}"
    if isinstance(tensor, Buffer):
        return f"{shown} buffer"
    if first != path:
        return f"{shown} shared with {first}"
    return shown if tensor.trainable else f"{shown} frozen"


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
