"""The conventions that layers share.

``forward(x, ..., add=None, again=None)``: ``add`` is a residual added to the result, in the same
pass over memory; its gradient is the gradient of the result. ``again`` is a function that computes
x again for the backward pass: a norm's output is cheaper to compute again than to keep.

``backward(dy)`` returns the gradient of x, or a tuple in the order of the inputs. A norm's
``backward(dy, add=None)`` adds ``add``, the gradient that reaches x through the residual path.
"""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Callable
from typing import Any

import numpy as np

from byhand import backend
from byhand.backend import Array
from byhand.ops import check

Again = Callable[[], Array] | None


def taken_again(saved: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a forward pass saved; if the first entry is a function, it is replaced by its result."""
    first = saved[0]
    return (first(), *saved[1:]) if callable(first) else saved


def converted(
    owner: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, with arrays of other libraries converted by `backend.from_dlpack`,
    whose errors name owner and argument.
    """
    names = [*inspect.signature(function).parameters, *map(str, range(len(args)))]
    named = zip(names, args, strict=False)
    positional = tuple(taken(f"{owner}: {name}", a) for name, a in named)
    return positional, {name: taken(f"{owner}: {name}", a) for name, a in kwargs.items()}


def taken(what: str, a: Any) -> Any:
    """The value, or if it is an array of another library one with its memory."""
    return backend.from_dlpack(a, what) if backend.is_foreign(a) else a


def input_error(
    error: Exception, layer: str, name: str, x: Any, size: int, weight: Array
) -> Exception:
    """What a layer raises when its op has raised ``error``: an error that names the input, unless
    that is an array (..., size) of the weight's dtype and on its device. A layer's own parameters
    fit each other, so what does not fit them is the input.
    """
    if not backend.is_array(x):
        return TypeError(f"{check.not_an_array(layer, name, x)}: use np.array({name}, np.float32)")
    if not x.shape or x.shape[-1] != size:
        return check.wrong_shape(layer, name, f"(..., {size})", x)
    try:
        require_like(layer, name, x, weight)
    except TypeError as named:
        return named
    return error


def require_sizes(layer: str, **sizes: Any) -> None:
    """Raises the error of a layer's constructor for a size that is not an integer of at least 0."""
    for name, size in sizes.items():
        if require_whole_number(layer, name, size) < 0:
            raise check.wrong_value(layer, name, "at least 0", size)


def require_whole_number(layer: str, name: str, value: Any) -> int:
    """The value as an int; the TypeError of a layer's constructor unless it is an integer."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{layer}: {name} must be a whole number, got {value!r}")
    return int(value)


def require_like(layer: str, name: str, x: Array, weight: Array) -> None:
    """Raises TypeError for an array of another dtype than the weight's, or on another device."""
    if isinstance(x, np.ndarray) and isinstance(weight, np.ndarray):
        if x.dtype != weight.dtype:
            raise TypeError(
                f"{layer}: {name} must be {weight.dtype}, as the parameters are, got {x.dtype}: "
                f"use {name}.astype(np.{weight.dtype})"
            )
    elif backend.is_cupy(x) != backend.is_cupy(weight):
        here, there = ("GPU", "CPU") if backend.is_cupy(x) else ("CPU", "GPU")
        raise TypeError(f"{layer}: {name} is on the {here} and the parameters are on the {there}")


def require_ids(model: str, name: str, ids: Any, context: int, held: int = 0) -> None:
    """TypeError or ValueError unless ids are an int64 array (B, T) whose T tokens fit the context,
    after ``held`` tokens in a cache.
    """
    if not backend.is_array(ids):
        raise TypeError(
            f"{model}: {name} must be an int64 array, got {type(ids).__name__}: use "
            f"np.array({name}, np.int64)"
        )
    if ids.dtype != np.int64:
        how = f": use {name}.astype(np.int64)" if ids.dtype.kind in "iu" else ""
        raise TypeError(f"{model}: {name} must be int64, got {ids.dtype}{how}")
    if ids.ndim != 2:
        how = f": use {name}[None] for one sequence" if ids.ndim == 1 else ""
        raise ValueError(f"{model}: {name} must have shape (B, T), got {ids.shape}{how}")
    if held + ids.shape[1] > context:
        after = f" after the {held} in the cache" if held else ""
        raise ValueError(
            f"{model}: {ids.shape[1]} tokens{after} do not fit the context of {context}"
        )


def own_copy(a: Array | None) -> Array | None:
    """A copy of a small numpy array that the backward pass will read: the caller may change the
    original before that. On a GPU the array itself, which must stay as it is until then.
    """
    return a.copy() if isinstance(a, np.ndarray) else a


def copied(a: Array, dtype: Any = None) -> Array:
    """A contiguous copy of an array or a view, on its device."""
    made = backend.empty(a.shape, a, dtype)
    made[...] = a
    return made


def contiguous(a: Array) -> Array:
    """A small numpy array without gaps, as kernels need it."""
    return a.copy() if isinstance(a, np.ndarray) and not a.flags.c_contiguous else a
