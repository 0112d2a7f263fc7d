"""Arrays of either library: allocation, copies between devices, dtypes."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
from numpy import ndarray

from byhand import _host
from byhand.backend.types import Array

_FLOAT32 = np.dtype(np.float32)
_CUDA = (2, 13)  # DLPack's numbers of the devices: memory of CUDA, and managed by it


def is_cupy(x: object) -> bool:
    return not isinstance(x, ndarray) and type(x).__module__.partition(".")[0] == "cupy"


def xp(x: Array) -> Any:
    """The array library that ``x`` belongs to: numpy or cupy."""
    return sys.modules["cupy"] if is_cupy(x) else np


def is_array(x: object) -> bool:
    """Whether ``x`` is an array: numpy's, cupy's, or one that `from_dlpack` takes. Numpy's numbers
    and pandas' tables are not arrays, although they have shapes.
    """
    return isinstance(x, ndarray) or is_cupy(x) or hasattr(x, "__dlpack__")


def is_foreign(x: object) -> bool:
    """Whether ``x`` is an array of another library that `from_dlpack` takes."""
    return not isinstance(x, ndarray) and hasattr(x, "__dlpack__") and not is_cupy(x)


def from_dlpack(x: Any, what: str = "x") -> Array:
    """An array with the memory of ``x``, which has ``__dlpack__``: numpy's for one on the CPU, such
    as a PyTorch tensor, cupy's for one on a GPU. Nothing is copied: what changes one changes the
    other, but numpy before 2.3 makes it read-only. The protocol is https://dmlc.github.io/dlpack.

    Raises TypeError, whose sentence begins with ``what``, for a tensor that requires grad, for
    bfloat16 and other dtypes that numpy lacks, and for one on a GPU where cupy is missing.
    """
    if not hasattr(x, "__dlpack__"):
        raise TypeError(f"{what} must be an array with __dlpack__, got {type(x).__name__}")
    name = what.rpartition(" ")[2]
    try:
        if x.__dlpack_device__()[0] not in _CUDA:
            return np.from_dlpack(x)
        import cupy

        return cupy.from_dlpack(x)
    except ImportError:
        reason = f"is on a GPU, and cupy, which is needed there, is not installed: use {name}.cpu()"
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        if getattr(x, "requires_grad", False):
            reason = f"requires grad, which is not tracked here: use {name}.detach()"
        elif "bfloat16" in str(getattr(x, "dtype", "")):
            reason = f"is bfloat16, which numpy lacks: use {name}.float()"
        else:
            reason = f"cannot be shared with numpy: {str(error).rstrip('.')}"
    raise TypeError(f"{what} {reason}")


def empty(shape: tuple[int, ...], like: Array, dtype: Any = None) -> Array:
    """An uninitialised array on the device of ``like``; large CPU arrays come from the pool.
    MemoryError saying how much was asked for.
    """
    if dtype is None:
        dtype = like.dtype
    if not isinstance(like, ndarray):
        return xp(like).empty(shape, dtype)
    try:
        return _host.empty(shape, dtype)
    except MemoryError:
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize / 2**30
        raise MemoryError(
            f"not enough memory: {size:,.1f} GiB for an array of shape {shape} and dtype {dtype}"
        ) from None


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
    dtype = x.dtype
    return dtype if dtype.itemsize >= 4 else _FLOAT32
