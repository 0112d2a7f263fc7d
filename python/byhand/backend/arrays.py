"""Arrays of either library: allocation, copies between devices, dtypes."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np

from byhand import _host
from byhand.backend.types import Array

_FLOAT32 = np.dtype(np.float32)
_SMALL = 4096  # bytes below which numpy's own allocator is quicker than the pool


def is_cupy(x: object) -> bool:
    return type(x).__module__.partition(".")[0] == "cupy"


def xp(x: Array) -> Any:
    """The array library that ``x`` belongs to: numpy or cupy."""
    return sys.modules["cupy"] if is_cupy(x) else np


def empty(shape: tuple[int, ...], like: Array, dtype: Any = None) -> Array:
    """An uninitialised array on the device of ``like``; large CPU arrays come from the pool.
    MemoryError saying how much was asked for.
    """
    dtype = like.dtype if dtype is None else np.dtype(dtype)
    if isinstance(like, np.ndarray):
        if math.prod(shape) * dtype.itemsize < _SMALL:
            return np.empty(shape, dtype)
        try:
            return _host.empty(shape, dtype)
        except MemoryError:
            size = math.prod(shape) * dtype.itemsize / 2**30
            raise MemoryError(
                f"not enough memory: {size:,.1f} GiB for an array of shape {shape} and dtype "
                f"{dtype}"
            ) from None
    return xp(like).empty(shape, dtype)


def zeros(shape: tuple[int, ...], like: Array, dtype: Any = None) -> Array:
    """An array of zeros on the device of ``like``."""
    array = empty(shape, like, dtype)
    array[...] = 0
    return array


def copy_to(to: Array, host: np.ndarray) -> None:
    """Copies a numpy array of the same shape and dtype to ``to``, on the CPU or on a GPU. On a GPU
    the copy is queued on the current stream and allocates nothing there.
    """
    if isinstance(to, np.ndarray):
        to[...] = host
    else:
        to.set(host)


def to_device_of(a: Array, like: Array) -> Array:
    """``a`` as an array on the device of ``like``, copied when it is on another. Copying from a GPU
    waits for it.
    """
    return to_numpy(a) if isinstance(like, np.ndarray) else xp(like).asarray(a)


def to_numpy(a: Array) -> np.ndarray:
    """``a`` as a numpy array, copied when it is on a GPU, which waits for the GPU."""
    return a.get() if is_cupy(a) else a


def bfloat16() -> np.dtype:
    """The dtype of bfloat16 arrays on a GPU. ImportError without the package ml_dtypes."""
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def statistics(x: Array) -> Any:
    """The dtype of sums over ``x``: float32 at least."""
    return x.dtype if x.dtype.itemsize >= 4 else _FLOAT32
