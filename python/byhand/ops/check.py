"""What the public functions of the ops share: the type of what they save, checks of values, and
the sentences of errors.

A public function checks what an argument means: its shape (`declare.op`) and its values. The
binding of the kernel checks how it is represented: device, dtype, contiguity.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np

from byhand import _host
from byhand.backend import Array, empty, is_array, statistics
from byhand.errors import suggestion

Saved: TypeAlias = tuple[Any, ...]  # what a forward function passes to its backward function
Reduction: TypeAlias = Literal["mean", "sum", "none"]  # of the losses of elements or rows

_INT64 = np.dtype(np.int64)
_BOOL = np.dtype(np.bool_)
_FLOATS = np.dtype(np.float32), np.dtype(np.float64)


# A target with this value is not counted in a loss: PyTorch's ignore_index.
IGNORED = -100


def not_an_array(op: str, name: str, value: Any) -> TypeError:
    """The error of a value that should be an array."""
    return TypeError(f"{op}: {name} must be an array, got {type(value).__name__}")


def arrays(op: str, **values: Any) -> None:
    """TypeError naming the first value that is not an array."""
    for name, value in values.items():
        if not is_array(value):
            raise not_an_array(op, name, value)


def wrong_shape(op: str, name: str, expected: Any, array: Array) -> ValueError:
    """The error of an array whose shape is not `expected` (a tuple, or words for one)."""
    return ValueError(f"{op}: {name} must have shape {expected}, got {array.shape}")


def last_axis(op: str, name: str, array: Array) -> None:
    """TypeError for a view with gaps in its last axis."""
    if array.strides[-1] != array.dtype.itemsize and array.size and array.shape[-1] > 1:
        raise TypeError(f"{op}: {name} must have a contiguous last axis")


def writable(op: str, name: str, array: Array) -> None:
    """TypeError for a read-only numpy array that is to be written."""
    if isinstance(array, np.ndarray) and not array.flags.writeable:
        raise TypeError(f"{op}: {name} is read-only")


def wrong_value(op: str, name: str, expected: str, got: Any) -> ValueError:
    """The error of an option outside its range."""
    return ValueError(f"{op}: {name} must be {expected}, got {got!r}")


def is_single(value: Any) -> bool:
    """Whether what is compared with numbers may be one: neither a bool nor an array of numbers."""
    return type(value) is float or (
        not isinstance(value, (bool, np.bool_)) and getattr(value, "shape", ()) == ()
    )


def gelu_is_tanh(op: str, approximate: str) -> bool:
    """True for GELU's approximation by tanh, "tanh", and False for "none"; ValueError for any other
    word.
    """
    if approximate == "tanh":
        return True
    if approximate == "none":
        return False
    raise wrong_value(op, "approximate", "'none' or 'tanh'", approximate)


def number(
    op: str,
    name: str,
    value: Any,
    good: Callable[[Any], bool] = lambda x: -np.inf <= x <= np.inf,
    words: str = "a number",
) -> None:
    """ValueError unless `good` holds for the value; `words` say for which numbers it does."""
    if type(value) is float and good(value):
        return
    try:
        fits = is_single(value) and good(value)
    except (TypeError, ValueError):  # not a number
        fits = False
    if not fits:
        raise wrong_value(op, name, words, value)


def probability(op: str, name: str, p: Any) -> None:
    """ValueError unless 0 <= p < 1 (at 1 the scale 1/(1-p) of the kept values has no meaning)."""
    number(op, name, p, lambda x: 0 <= x < 1, "at least 0 and less than 1")


def in_0_to_1(op: str, name: str, value: Any) -> None:
    """ValueError unless the value is a number in 0..1."""
    number(op, name, value, lambda x: 0 <= x <= 1, "in 0..1")


def at_least_0(op: str, name: str, value: Any) -> None:
    """ValueError unless the value is a finite number of at least 0."""
    number(op, name, value, lambda x: 0 <= x < np.inf, "a number of at least 0")


def positive(op: str, name: str, value: Any) -> None:
    """ValueError unless the value is a finite number greater than 0."""
    number(op, name, value, lambda x: 0 < x < np.inf, "a number greater than 0")


def eps(op: str, value: Any) -> None:
    """ValueError unless eps, which keeps a divisor from 0, is a number of at least 0."""
    at_least_0(op, "eps", value)


def counter(op: str, seed: int, offset: Any) -> None:
    """ValueError unless seed and offset are unsigned 64-bit integers, as Philox counts, or offset
    is a pair of one and a 0-d int64 array; TypeError for another pair or another dtype.
    """
    if not 0 <= seed < 1 << 64:
        raise wrong_value(op, "seed", "an integer in 0..2**64-1", seed)
    if type(offset) is tuple:
        if len(offset) != 2 or not hasattr(offset[1], "dtype"):
            kinds = ", ".join(type(part).__name__ for part in offset)
            raise TypeError(
                f"{op}: offset must be an integer, or a pair of one and a 0-d int64 array, got "
                f"({kinds})"
            )
        offset, moving = offset
        if moving.shape != ():
            raise wrong_shape(op, "offset[1]", (), moving)
        if moving.dtype != _INT64:
            raise TypeError(f"{op}: offset[1] must have dtype int64, got {moving.dtype}")
    if not 0 <= offset < 1 << 64:
        raise wrong_value(op, "offset", "an integer in 0..2**64-1", offset)


def first_where(name: str, array: Array, bad: Array) -> str | None:
    """The first element of a numpy array where `bad` is true, as "name[1, 0] = 7"; None without."""
    if not bad.any():
        return None
    where = tuple(np.argwhere(bad)[0].tolist())
    return f"{name}{list(where) if where else ''} = {array[where]}"


def ids(
    op: str,
    name: str,
    array: Array,
    size: int,
    ignore: int | None = None,
    of: str = "the vocabulary",
) -> None:
    """IndexError unless every id is in 0..size-1 or equals `ignore`; TypeError unless they are
    int64. ``of`` is what the sentence calls the ids.

    Only the values of numpy arrays are checked: reading a cupy array would make the host wait for
    the device.
    """
    if array.dtype != _INT64:
        # Rounding real numbers would hide that they are no ids.
        how = f": use {name}.astype(np.int64)" if array.dtype.kind in "iub" else ""
        raise TypeError(f"{op}: {name} must have dtype int64, got {array.dtype}{how}")
    if not isinstance(array, np.ndarray) or _host.all_within(array, 0, size - 1):
        return
    bad = (array < 0) | (array >= size)
    if ignore is not None:
        bad &= array != ignore
    if found := first_where(name, array, bad):
        raise IndexError(f"{op}: {found} is outside {of} 0..{size - 1}")


def lengths(op: str, name: str, array: Array, most: int) -> None:
    """ValueError unless every length is in 0..most, checking numpy arrays only, as `ids` does;
    TypeError unless they are int64.
    """
    if array.dtype != _INT64:
        raise TypeError(f"{op}: {name} must have dtype int64, got {array.dtype}")
    if not isinstance(array, np.ndarray):
        return
    if found := first_where(name, array, (array < 0) | (array > most)):
        raise ValueError(f"{op}: {found} is outside 0..{most}")


def broadcast_mask(op: str, mask: Array, shape: tuple[int, ...]) -> Array:
    """The mask seen with `shape` (no copy: repeated axes get stride 0); ValueError when it does not
    fit, TypeError when it is not bool.
    """
    if mask.dtype != _BOOL:
        raise TypeError(f"{op}: mask must have dtype bool, got {mask.dtype}")
    if mask.shape == shape:
        return mask
    try:
        # numpy passes a cupy mask on to cupy's own broadcast_to, so this line serves both.
        return np.broadcast_to(mask, shape)
    except ValueError:
        raise wrong_shape(op, "mask", f"that broadcasts to {shape}", mask) from None


def step_of_optimizer(
    op: str, w: Array, lr: Array, bounds: Array, t: Array, norm: Array | None, max_norm: float
) -> None:
    """ValueError unless there is a group, bounds ascend to the size of w, t is at least 0, and
    max_norm is positive where a norm is given. The values of bounds and t are checked on the CPU
    only, since reading them on a GPU would wait for it.
    """
    if not lr.shape[0]:
        raise wrong_shape(op, "lr", "(G,) with G >= 1", lr)
    if norm is not None and not max_norm > 0:
        raise wrong_value(op, "max_norm", "positive when norm is given", max_norm)
    if isinstance(w, np.ndarray):
        ends = bounds.tolist()
        if ends[0] < 0 or ends != sorted(ends) or ends[-1] != w.shape[0]:
            raise wrong_value(op, "bounds", f"ascending to {w.shape[0]}", ends)
        if t.item() < 0:
            raise wrong_value(op, "t", "at least 0", t.item())


def reduction(op: str, value: Any, known: tuple[str, ...] = ("mean", "sum", "none")) -> None:
    """ValueError, which names the nearest one, unless the value is a known reduction of losses."""
    if isinstance(value, str) and value in known:
        return
    words = f"{', '.join(map(repr, known[:-1]))} or {known[-1]!r}"
    if hasattr(value, "shape"):
        raise ValueError(
            f"{op}: reduction must be {words}, got an array: the arrays are arguments of the loss "
            f"that {op}() makes"
        )
    raise ValueError(f"{wrong_value(op, 'reduction', words, value)}{suggestion(value, known)}")


def upstream(op: str, dloss: Any, like: Array, shape: tuple[int, ...] = ()) -> Array:
    """The gradient `dloss` of losses of this shape, as an array on the device of `like`: a number
    becomes a 0-d array. TypeError or ValueError for anything else than an array of this shape.
    """
    if shape == () and isinstance(dloss, (int, float, np.generic)):
        made = empty((), like, statistics(like))
        made.fill(dloss)
        return made
    if not is_array(dloss):
        raise not_an_array(op, "dloss", dloss)
    if dloss.shape != shape:
        raise wrong_shape(op, "dloss", shape, dloss)
    return dloss


def upstreams(
    op: str, dloss: Any, like: Array, shape: tuple[int, ...], reduction: Reduction
) -> tuple[Array | None, Array | None]:
    """The gradients of the reduced loss and of the losses of this shape, as `upstream` gives them:
    `dloss` is the second with reduction "none" and else the first; the other is None.
    """
    if reduction == "none":
        return None, upstream(op, dloss, like, shape)
    return upstream(op, dloss, like), None


def all_in_0_to_1(op: str, name: str, array: Array) -> None:
    """ValueError unless every element is in 0..1 or NaN, checking numpy arrays of float32 and
    float64 only: kernels refuse others, and reading a cupy array would wait for the device.
    """
    if not isinstance(array, np.ndarray) or array.dtype not in _FLOATS:
        return
    if _host.all_within(array, 0, 1):
        return
    if found := first_where(name, array, (array < 0) | (array > 1)):
        raise ValueError(f"{op}: {found} is outside 0..1")


def all_up_to(op: str, name: str, array: Array, most: float, where: str) -> None:
    """ValueError unless every element is a number of at most this size, checking numpy arrays of
    float32 and float64 only, as above. `where` says where no larger one is allowed.
    """
    if not isinstance(array, np.ndarray) or array.dtype not in _FLOATS:
        return
    if _host.all_within(array, -most, most):
        return
    if found := first_where(name, array, ~(np.abs(array) <= most)):
        raise ValueError(f"{op}: {found} is not a number of at most {most:.6g} {where}")
