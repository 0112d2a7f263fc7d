"""Which kernels run for an array."""

from __future__ import annotations

import numpy as np

from byhand.backend.arrays import is_cupy
from byhand.backend.cpu import cpu
from byhand.backend.cuda import cuda
from byhand.backend.native import Kernels, state
from byhand.backend.reference import reference
from byhand.backend.types import Array

_FLOAT32 = np.dtype(np.float32)
_FLOAT64 = np.dtype(np.float64)


class UnsupportedArray(TypeError):
    """No back end computes with this array."""

    def __init__(self, reason: str, array: object) -> None:
        super().__init__(reason)
        self.array = array


def kernels(x: Array) -> Kernels:
    """The kernels for the library, device and dtype of ``x``.

    Raises UnsupportedArray, a TypeError, for anything that is not a float32 or float64 numpy array
    or a cupy array.
    """
    if isinstance(x, np.ndarray):
        if x.dtype == _FLOAT32:
            return state.cpu or cpu()
        if x.dtype == _FLOAT64:
            return reference
        raise UnsupportedArray(
            f"numpy arrays must be float32 (fast kernels) or float64 (check mode), got {x.dtype}", x
        )
    if is_cupy(x):
        return cuda()
    raise UnsupportedArray(f"expected a numpy or cupy array, got {type(x).__name__}", x)
