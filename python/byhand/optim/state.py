"""Checks of a state that is loaded: arrays by the paths of a model's parameters."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any

from byhand.backend import Array
from byhand.nn.parameter import require_finite, require_held


def require_count(where: str, name: str, value: Any) -> int:
    """A whole number of at least 0; ValueError with its name for any other."""
    if not isinstance(value, numbers.Integral) or int(value) < 0:
        raise ValueError(f"{where}: {name} must be an integer >= 0, got {value!r}")
    return int(value)


def require_arrays(where: str, slot: str, own: Mapping[str, Array], given: Any) -> None:
    """ValueError unless `given` has an array for each of `own` and no other, of the same shape,
    finite, with values that its dtype can hold; `slot` is what the messages call them.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"{where}: {slot} must be a dict, got {type(given).__name__}")
    for name in sorted(own.keys() - given.keys()):
        raise ValueError(f"{where}: {slot} of {name} is missing")
    for name in sorted(given.keys() - own.keys()):
        raise ValueError(f"{where}: {slot} of {name} belongs to no trained parameter")
    for name, view in own.items():
        shape = getattr(given[name], "shape", None)
        if shape is None or tuple(shape) != tuple(view.shape):
            got = type(given[name]).__name__ if shape is None else tuple(shape)
            raise ValueError(
                f"{where}: {slot} of {name} must have shape {tuple(view.shape)}, got {got}"
            )
        require_held(f"{where}: {slot} of {name}", given[name], view.dtype)
        require_finite(f"{where}: {slot} of {name}", given[name])
