"""Stands for cupy arrays where there is no GPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np


class FakeCupy:
    """All that the binding reads of a cupy array. It has no memory of its own: the call must fail
    before a kernel runs.
    """

    __cuda_array_interface__: Any = None

    def __init__(
        self,
        shape: tuple[int, ...] = (3, 5),
        dtype: Any = "float32",
        strides: tuple[int, ...] | None = None,
        address: int = 1 << 20,
        device: int = 0,
    ):
        self.shape = shape
        self.dtype = np.dtype(dtype)
        steps = [self.dtype.itemsize]
        for n in reversed(shape[1:]):
            steps.insert(0, steps[0] * n)
        self.strides = steps[: len(shape)] if strides is None else strides
        self.data = SimpleNamespace(ptr=address)
        self.device = SimpleNamespace(id=device)

    @classmethod
    def of(cls, host: np.ndarray) -> FakeCupy:
        return cls(host.shape, host.dtype, host.strides, host.ctypes.data)
