"""The names of a model's weights in Hugging Face's files, and the conversion of their arrays.

A model's page has a table ``HF(config)``: a `Weight` for each array of the model's ``state_dict``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Weight(NamedTuple):
    """An array of a model and where it is in Hugging Face's files.

    name: ours. there: theirs; several arrays are ours one below the other. rows: how many rows each
    of them has, if they are several. heads: if not 0, their one array has queries, keys and values
    of each of so many heads after each other, and ours first the queries of all heads.
    """

    name: str
    there: tuple[str, ...]
    rows: tuple[int, ...] = ()
    heads: int = 0


def from_hugging_face(
    table: Iterable[Weight], weights: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Their arrays under our names, as ``load_state_dict`` takes them. KeyError for a missing one,
    ValueError for one that has other rows than the table says.
    """
    ours = {}
    for name, there, rows, heads in table:
        parts = [np.asarray(weights[one]) for one in there]
        for one, part, count in zip(there, parts, rows, strict=False):
            if len(part) != count:
                raise ValueError(f"{one} must have {count} rows, got shape {part.shape}")
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
        ours[name] = _regrouped(whole, heads, 3) if heads else whole
    return ours


def to_hugging_face(
    table: Iterable[Weight], state: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Our arrays under their names. KeyError for a missing one."""
    theirs: dict[str, Any] = {}
    for name, there, rows, heads in table:
        whole = np.asarray(state[name])
        if heads:
            whole = _regrouped(whole, 3, heads)
        parts = np.split(whole, np.cumsum(rows)[:-1]) if rows else [whole]
        theirs.update(zip(there, parts, strict=True))
    return theirs


def _regrouped(a: np.ndarray, outer: int, inner: int) -> np.ndarray:
    """The rows, which are blocks (outer, inner), as blocks (inner, outer)."""
    blocks = a.reshape(outer, inner, -1, *a.shape[1:])
    return np.ascontiguousarray(blocks.swapaxes(0, 1)).reshape(a.shape)
