"""Runs CUDA kernels, on the GPU or on the CPU, on numpy arrays, so that the oracle can check them
like any other.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

from byhand import backend
from tests.cuda.schedules import SCHEDULES

_GUARD = 512  # bytes before and after each array on the device
_FILL = 0xA5


class _Mirror:
    """A copy of a host array on the device, between canaries and with the same alignment."""

    def __init__(self, host: Any, cupy: Any):
        self.host = host
        self._cupy = cupy
        spread = [stride == 0 and host.size > 0 for stride in host.strides]  # broadcast axes
        base = host[tuple(slice(0, 1) if s else slice(None) for s in spread)]
        self._begin = _GUARD + host.ctypes.data % 64
        self._end = self._begin + base.nbytes
        before = np.full(self._end + _GUARD, _FILL, np.uint8)
        before[self._begin : self._end] = np.frombuffer(base.tobytes(), np.uint8)
        self._before = before
        self._block = cupy.asarray(before)
        inside = self._block[self._begin : self._end].view(host.dtype).reshape(base.shape)
        self.array = cupy.broadcast_to(inside, host.shape) if base.shape != host.shape else inside

    def fetch(self, kernel: str) -> None:
        """Copies what the kernel wrote back to the host; nothing else may have changed."""
        after = self._cupy.asnumpy(self._block)
        if self.host.flags.writeable:
            written = after[self._begin : self._end].copy()
            self.host[...] = written.view(self.host.dtype).reshape(self.host.shape)
            self._before[self._begin : self._end] = written
        assert np.array_equal(after, self._before), f"{kernel} changed memory that is not its own"


class OnDevice:
    """The kernels of `module`, called with numpy arrays, which are copied there and back."""

    def __init__(self, module: Any, cupy: Any):
        self._module = module
        self._cupy = cupy

    def again(self) -> Iterator[Any]:
        """A `with` block for each way of running a kernel that must give the same bits."""
        for _ in range(3):
            yield nullcontext()

    def __getattr__(self, kernel: str) -> Callable[..., None]:
        function = getattr(self._module, kernel)

        def call(*args: Any) -> None:
            mirrors: dict[Any, _Mirror] = {}
            there = []
            for value in args:
                if isinstance(value, np.ndarray):
                    # One array passed twice is one array on the device too.
                    key = (value.ctypes.data, value.shape, value.strides, value.dtype)
                    if value.size == 0:
                        key = (len(mirrors), *key)  # empty arrays may share an address
                    mirror = mirrors.setdefault(key, None) or _Mirror(value, self._cupy)
                    mirrors[key] = mirror
                    value = mirror.array
                elif isinstance(value, tuple):  # an offset with a part on the device
                    value = (value[0], self._cupy.asarray(value[1]))
                there.append(value)
            function(*there)
            for mirror in mirrors.values():
                mirror.fetch(kernel)

        return call


class OnCpu:
    """The kernels of `byhand_cuda_on_cpu`."""

    def __init__(self) -> None:
        self._kernels = backend.cuda_on_cpu()
        self._module = importlib.import_module("byhand_cuda_on_cpu")

    def again(self) -> Iterator[Any]:
        """Every schedule, with one thread of the operating system and with two."""
        for i, schedule in enumerate(SCHEDULES):
            yield self._under(schedule, 1 + i % 2)

    @contextmanager
    def _under(self, schedule: str, threads: int) -> Iterator[None]:
        before = self._module.num_threads()
        self._module.set_num_threads(threads)
        try:
            with backend.cuda_on_cpu_schedule(schedule):
                yield
        finally:
            self._module.set_num_threads(before)

    def __getattr__(self, kernel: str) -> Callable[..., None]:
        return getattr(self._kernels, kernel)
