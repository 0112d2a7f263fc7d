"""A stand-in for cupy on machines without a GPU: arrays in the host's memory, on which the CUDA
kernels compiled for the CPU run, a stream that captures graphs, and allocators.

It is stricter than cupy. During a capture nothing runs: kernels, fills and copies are recorded, and
run when the graph is launched, at the addresses they were captured with. An operation that would
allocate memory or wait for the GPU is an `Unsafe` error during a capture; outside of one it is only
counted. Pinned memory from which an array was set may not change before an event that was recorded
afterwards has been waited for.
"""

from __future__ import annotations

import ctypes
import importlib
import math
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np

from byhand import backend
from byhand.backend import native


class Unsafe(AssertionError):
    """Raised for an operation that cannot be captured in a CUDA graph, and for pinned memory that
    changes while it may still be copied.
    """


class OutOfMemoryError(MemoryError):
    __module__ = "cupy.cuda.memory"


class Machine:
    """The state of the simulated device."""

    def __init__(self) -> None:
        self.captured: list[Callable[[], None]] | None = None
        self.allocator: Callable[[int], MemoryPointer] | None = None
        self.allocations = 0  # by `malloc`, not by another allocator
        self.waits = 0
        self.memory = math.inf  # bytes
        self.used = self.most_used = 0
        self.pinned: list[np.ndarray] = []  # bytes
        self.copying: list[tuple[np.ndarray, bytes]] = []  # pinned memory, what it must hold
        self.event_waits = 0  # for copies to be done

    def alloc_pinned_memory(self, nbytes: int) -> memoryview:
        if self.captured is not None:
            raise Unsafe("pinned memory is allocated in a capture")
        self.pinned.append(np.full(nbytes, 0xFF, np.uint8))
        return memoryview(self.pinned[-1])

    def copied_from(self, host: np.ndarray) -> None:
        """The stream will copy from this memory at some time."""
        if any(np.may_share_memory(host, pinned) for pinned in self.pinned):
            self.require_unchanged(self.copying)
            self.copying.append((host, host.tobytes()))

    def require_unchanged(self, copies: list[tuple[np.ndarray, bytes]]) -> None:
        for host, expected in copies:
            if host.tobytes() != expected:
                raise Unsafe("pinned memory changed before it was copied")

    def do(self, work: Callable[[], None]) -> None:
        """Runs the work, or records it during a capture."""
        if self.captured is None:
            work()
        else:
            self.captured.append(work)

    def wait(self, what: str) -> None:
        if self.captured is not None:
            raise Unsafe(f"{what} waits for the GPU in a capture")
        self.waits += 1

    def malloc(self, nbytes: int) -> MemoryPointer:
        if self.captured is not None:
            raise Unsafe(f"{nbytes} bytes are allocated in a capture")
        if self.used + nbytes > self.memory:
            raise OutOfMemoryError(
                f"Out of memory allocating {nbytes:,} bytes "
                f"(allocated so far: {self.used:,} bytes)."
            )
        self.allocations += 1
        self.used += nbytes
        self.most_used = max(self.most_used, self.used)
        # NaN wherever nothing was written.
        memory = Memory(np.full(nbytes, 0xFF, np.uint8))
        weakref.finalize(memory, self._free, nbytes)
        return MemoryPointer(memory, 0)

    def _free(self, nbytes: int) -> None:
        self.used -= nbytes

    def allocate(self, nbytes: int) -> MemoryPointer:
        return (self.allocator or self.malloc)(nbytes)


class Memory:
    def __init__(self, host: np.ndarray):
        self.ptr = host.ctypes.data
        self._host = host


class UnownedMemory:
    def __init__(self, ptr: int, size: int, owner: object, device_id: int):
        self.ptr = ptr
        self._owner = owner


class MemoryPointer:
    def __init__(self, mem: Any, offset: int):
        self.mem = mem
        self.ptr = mem.ptr + offset


class ndarray:
    """An array: `host` is numpy's view of its memory, which `data` keeps alive."""

    __module__ = "cupy"
    __cuda_array_interface__: Any = None
    __dlpack__: Any = None
    device = SimpleNamespace(id=0)

    def __init__(self, machine: Machine, host: np.ndarray, data: Any, base: Any = None):
        self.machine = machine
        self.base = base if getattr(base, "base", None) is None else base.base
        self.host = host
        self.data = data
        self.shape, self.ndim, self.size = host.shape, host.ndim, host.size
        self.dtype, self.nbytes, self.strides = host.dtype, host.nbytes, host.strides

    def _view(self, index: Any) -> np.ndarray:
        # With an ellipsis one element is an array too.
        view = self.host[(*index, ...) if isinstance(index, tuple) else (index, ...)]
        assert np.may_share_memory(view, self.host) or not view.size, "a copy"
        return view

    def __len__(self) -> int:
        return len(self.host)

    def __getitem__(self, index: Any) -> ndarray:
        if (places := _places(index)) is not None:
            return _elementwise(lambda host: host[places], self.machine, self)
        return ndarray(self.machine, self._view(index), self.data, self)

    def reshape(self, *shape: Any) -> ndarray:
        view = self.host.reshape(*shape)
        assert np.may_share_memory(view, self.host) or not view.size, "a copy"
        return ndarray(self.machine, view, self.data, self)

    def swapaxes(self, a: int, b: int) -> ndarray:
        return ndarray(self.machine, self.host.swapaxes(a, b), self.data, self)

    def __setitem__(self, index: Any, value: Any) -> None:
        source = value.host if isinstance(value, ndarray) else value
        assert isinstance(value, (ndarray, int, float)), f"cupy refuses {type(value)}"
        if (places := _places(index)) is not None:
            self.machine.do(lambda: self.host.__setitem__(places, source))
            return
        target = self.host if index is ... else self._view(index)

        def assign() -> None:
            target[...] = source

        self.machine.do(assign)

    def __iadd__(self, other: ndarray) -> ndarray:
        self.machine.do(lambda: np.add(self.host, other.host, out=self.host))
        return self

    def __imul__(self, other: ndarray | float) -> ndarray:
        factor = other.host if isinstance(other, ndarray) else other
        self.machine.do(lambda: np.multiply(self.host, factor, out=self.host))
        return self

    def __lt__(self, other: ndarray) -> ndarray:
        return _elementwise(np.less, self.machine, self, other)

    def fill(self, value: float) -> None:
        self.machine.do(lambda: self.host.fill(value))

    def set(self, host: np.ndarray) -> None:
        assert (host.shape, host.dtype) == (self.shape, self.dtype)
        if self.machine.captured is not None:
            raise Unsafe("the host's memory is copied in a capture")
        self.machine.copied_from(host)
        np.copyto(self.host, host)

    def get(self) -> np.ndarray:
        self.machine.wait("get()")
        return self.host.copy()

    def __float__(self) -> float:
        self.machine.wait("float()")
        return float(self.host)

    def __int__(self) -> int:
        self.machine.wait("int()")
        return int(self.host)

    def __bool__(self) -> bool:
        self.machine.wait("bool()")
        return bool(self.host)


def _places(index: Any) -> tuple[Any, ...] | None:
    """An index with arrays of cupy among its entries, with numpy's for them; None without."""
    entries = index if isinstance(index, tuple) else (index,)
    assert not any(isinstance(entry, np.ndarray) for entry in entries), "an index of numpy"
    if not any(isinstance(entry, ndarray) for entry in entries):
        return None
    return tuple(entry.host if isinstance(entry, ndarray) else entry for entry in entries)


def _elementwise(function: Any, machine: Machine, *arrays: Any) -> ndarray:
    """A new array that this function of numpy computes from arrays and numbers."""
    there = [a.host if isinstance(a, ndarray) else a for a in arrays]
    like = function(*there)
    data = machine.allocate(like.nbytes)
    memory = (ctypes.c_ubyte * like.nbytes).from_address(data.ptr)
    made = ndarray(machine, np.frombuffer(memory, like.dtype).reshape(like.shape), data)
    machine.do(lambda: np.copyto(made.host, function(*there)))
    return made


class Graph:
    def __init__(self, work: list[Callable[[], None]]):
        self._work = work
        self.launches = 0

    def launch(self, stream: Any = None) -> None:
        self.launches += 1
        for work in self._work:
            work()


class Cupy:
    """The module that `import cupy` gives."""

    ndarray = ndarray

    def __init__(self, machine: Machine):
        self.machine = machine
        self.graphs: list[Graph] = []
        self.cuda = SimpleNamespace(
            Device=lambda: ndarray.device,
            Stream=lambda: Stream(self),
            Event=lambda disable_timing=False: Event(machine),
            alloc_pinned_memory=machine.alloc_pinned_memory,
            MemoryPointer=MemoryPointer,
            UnownedMemory=UnownedMemory,
            using_allocator=self._using_allocator,
            runtime=SimpleNamespace(
                memGetInfo=lambda: (machine.memory - machine.used, machine.memory)
            ),
        )

    def empty(self, shape: Any, dtype: Any = float) -> ndarray:
        dtype, shape = np.dtype(dtype), (shape,) if isinstance(shape, int) else tuple(shape)
        nbytes = math.prod(shape) * dtype.itemsize
        data = self.machine.allocate(nbytes)
        host = np.empty(shape, dtype)
        if nbytes:
            memory = (ctypes.c_ubyte * nbytes).from_address(data.ptr)
            host = np.frombuffer(memory, dtype).reshape(shape)
        return ndarray(self.machine, host, data)

    def zeros(self, shape: Any, dtype: Any = float) -> ndarray:
        a = self.empty(shape, dtype)
        a[...] = 0
        return a

    def where(self, condition: ndarray, a: Any, b: Any) -> ndarray:
        return _elementwise(np.where, self.machine, condition, a, b)

    def asarray(self, a: Any) -> ndarray:
        if isinstance(a, ndarray):
            return a
        a = np.asarray(a)
        made = self.empty(a.shape, a.dtype)
        made.set(a)
        return made

    @contextmanager
    def _using_allocator(self, allocator: Callable[[int], MemoryPointer]) -> Iterator[None]:
        before, self.machine.allocator = self.machine.allocator, allocator
        try:
            yield
        finally:
            self.machine.allocator = before

    def get_default_memory_pool(self) -> Any:
        return SimpleNamespace(
            malloc=self.machine.malloc,
            free_all_blocks=lambda: self.machine.wait("free_all_blocks()"),
        )


class Event:
    def __init__(self, machine: Machine):
        self._machine = machine
        self._before: list[Any] = []  # copies

    def record(self) -> None:
        self._before = list(self._machine.copying)

    def synchronize(self) -> None:
        if self._machine.captured is not None:
            raise Unsafe("an event is waited for in a capture")
        done = {id(copy) for copy in self._before}
        due = [copy for copy in self._machine.copying if id(copy) in done]
        self._machine.event_waits += bool(due)
        self._machine.require_unchanged(due)
        self._machine.copying = [c for c in self._machine.copying if id(c) not in done]


class Stream:
    def __init__(self, cupy: Cupy):
        self._cupy = cupy
        self._machine = cupy.machine

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def begin_capture(self) -> None:
        assert self._machine.captured is None
        self._machine.captured = []

    def end_capture(self) -> Graph:
        assert self._machine.captured is not None
        self._cupy.graphs.append(Graph(self._machine.captured))
        self._machine.captured = None
        return self._cupy.graphs[-1]


def kernels(machine: Machine) -> backend.Kernels:
    """The CUDA kernels for the CPU, on arrays of `machine` and in the order of its stream."""
    native = backend.cuda_on_cpu()

    def on_host(a: Any) -> Any:
        if isinstance(a, tuple):  # an offset with a part on the device
            return a[0], a[1].host
        return a.host if isinstance(a, ndarray) else a

    def wrapped(name: str) -> Callable[..., None]:
        kernel = getattr(native, name)

        def call(*arguments: Any) -> None:
            assert not any(isinstance(a, np.ndarray) for a in arguments), name
            there = [on_host(a) for a in arguments]
            machine.do(lambda: kernel(*there))

        return call

    return backend.Kernels("cuda", {name: wrapped(name) for name in native.available})


def install(monkeypatch: Any) -> Cupy:
    """Makes `import cupy` give the stand-in, and run its arrays on the CUDA kernels for the CPU."""
    cupy = Cupy(Machine())
    cuda = importlib.import_module("byhand.backend.cuda")  # `backend.cuda` is its function
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(native.state, "cuda", kernels(cupy.machine))
    monkeypatch.setattr(backend, "cuda_reason", lambda: "")
    monkeypatch.setattr(cuda, "device_multiprocessors", lambda device: 3)
    return cupy
