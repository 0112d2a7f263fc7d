"""State that follows a model's parameters: flat arrays as arrays by path, and their checks."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping
from typing import Any

from byhand.backend import Array
from byhand.nn.module import Module
from byhand.nn.parameter import Parameter, require_finite, require_held
from byhand.nn.protocol import taken
from byhand.nn.storage import Storage


def require_model(owner: str, model: Any) -> None:
    """TypeError for anything but a Module, RuntimeError for one that is not built, ValueError for a
    part of a larger model.
    """
    if not isinstance(model, Module):
        raise TypeError(f"{owner} takes the model itself, got {type(model).__name__}")
    if model._storage is None:
        raise RuntimeError(f"{owner}: the model is not built: call model.build(seed) before")
    if not model.is_root:
        raise ValueError(f"{owner}: this module is a part of a larger model: give the model")


def require_unmoved(owner: str, made: str, model: Module, storage: Storage, version: int) -> None:
    """RuntimeError if the model's memory is not this storage in this version, which was its memory
    when what is now to be made anew, `made`, was made.
    """
    if model.storage is not storage or storage.version != version:
        raise RuntimeError(
            f"{owner}: the model's parameters were moved (by to, freeze, decay or precision, or "
            f"into a larger model that was built): make a new {made}"
        )


def by_path(flat: Array, params: Iterable[Parameter]) -> dict[str, Array]:
    """{path: view of the parameter's shape} of an array that holds one number for each element of
    these parameters.
    """
    views, start = {}, 0
    for p in params:
        views[p.name] = flat[start : start + p.size].reshape(p.shape)
        start += p.size
    return views


def require_count(where: str, name: str, value: Any) -> int:
    """A whole number of at least 0; ValueError with its name for any other."""
    if not isinstance(value, numbers.Integral) or int(value) < 0:
        raise ValueError(f"{where}: {name} must be an integer >= 0, got {value!r}")
    return int(value)


def require_arrays(where: str, slot: str, own: Mapping[str, Array], given: Any) -> dict[str, Array]:
    """The arrays of `given`, those of other libraries taken. ValueError unless it has an array for
    each of `own` and no other, of the same shape, finite, with values that its dtype can hold;
    `slot` is what the messages call them.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"{where}: {slot} must be a dict, got {type(given).__name__}")
    for name in sorted(own.keys() - given.keys()):
        raise ValueError(f"{where}: {slot} of {name} is missing")
    for name in sorted(given.keys() - own.keys()):
        raise ValueError(f"{where}: {slot} of {name} belongs to no trained parameter")
    given = {name: taken(f"{where}: {slot} of {name}", given[name]) for name in own}
    for name, view in own.items():
        shape = getattr(given[name], "shape", None)
        if shape is None or tuple(shape) != tuple(view.shape):
            got = type(given[name]).__name__ if shape is None else tuple(shape)
            raise ValueError(
                f"{where}: {slot} of {name} must have shape {tuple(view.shape)}, got {got}"
            )
        require_held(f"{where}: {slot} of {name}", given[name], view.dtype)
        require_finite(f"{where}: {slot} of {name}", given[name])
    return given
