"""Modules as text and HTML: the tree that ``print`` and notebooks show."""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterator
from typing import Any, TypeVar

from byhand.nn import tree
from byhand.nn.parameter import Buffer, Parameter

T = TypeVar("T")


def tree_of(module: Any, kind: type) -> str:
    """One line per module: its name, type and settings, how many numbers its parameters have, and
    their shapes. Equal neighbours in a list are shown once.
    """
    first: dict[int, str] = {}
    for path, part in tree.walk(module, "", set(), kind):
        if isinstance(part, Parameter):
            first[id(part)] = path
    return "\n".join(_lines(module, "", first, kind, ()))


def html_of(text: str) -> str:
    """The tree of ``tree_of`` in HTML, in which every module can be folded."""
    lines = [html.escape(line.lstrip()) for line in text.splitlines()]
    depths = [(len(line) - len(line.lstrip())) // 2 for line in text.splitlines()]
    made, opened = "", 0
    for line, depth, after in zip(lines, depths, [*depths[1:], 0], strict=True):
        made += "</details>" * (opened - depth)
        opened = depth
        if after > depth:
            made += f'<details open style="margin-left: 1em"><summary>{line}</summary>'
            opened = after
        else:
            made += f'<div style="margin-left: 2em">{line}</div>'
    return made + "</details>" * opened


def _lines(
    module: Any, path: str, first: dict[int, str], kind: type, above: tuple[int, ...]
) -> list[str]:
    if id(module) in above:
        return [f"{type(module).__name__} (contains itself)"]
    prefix = f"{path}." if path else ""
    own, parts = [], []
    for key, part in tree.public_parts(module, kind):
        if isinstance(part, kind):
            parts.append((key, part))
        else:
            own.append(_tensor(key, part, first.get(id(part), prefix + key), prefix + key))
    shown = head(module)
    count = sum(p.size for p in module.parameters())
    if count:
        shown += f", {count:,}" if above else f", {count:,} parameters"
    lines = [shown + (": " if own else "") + ", ".join(own)]
    below = (
        (key, _lines(part, prefix + key, first, kind, (*above, id(module)))) for key, part in parts
    )
    for keys, inner in grouped(below):
        lines += [f"  {keys}: {inner[0]}", *(f"  {line}" for line in inner[1:])]
    return lines


def grouped(below: Iterator[tuple[str, T]]) -> Iterator[tuple[str, T]]:
    """Neighbours that differ in their key only, once: "blocks.0 to blocks.3, each"."""
    for item, group in itertools.groupby(below, key=lambda pair: pair[1]):
        keys = [key for key, _ in group]
        numbered = all(key.rpartition(".")[2].isdigit() for key in keys)
        if len(keys) > 1 and numbered:
            yield f"{keys[0]} to {keys[-1]}, each", item
        else:
            yield from ((key, item) for key in keys)


def head(module: Any) -> str:
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
