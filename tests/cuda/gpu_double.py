"""A stand-in for the GPU of bench/gpu.py: numpy for cupy, the CUDA kernels for the CPU, and a log
of what is queued on the stream.
"""

from __future__ import annotations

import sys
import time
from importlib.machinery import ModuleSpec
from types import SimpleNamespace
from typing import Any

import numpy as np

from bench import collect, gpu, gpu_device
from byhand import backend


class Machine:
    """The stand-in's GPU: a log of what is queued, and a graph that is being captured."""

    capability = (9, 0)

    def __init__(self) -> None:
        self.log: list[str] = []
        self.captured: list[Any] | None = None
        self.late = 0  # so many events are reached before the host has queued what follows

    def do(self, what: str, work: Any = lambda: None) -> None:
        if self.captured is not None:
            self.captured.append(work)
        else:
            self.log.append(what)
            work()


def install(monkeypatch: Any) -> Machine:
    """Replaces cupy by numpy and the GPU by the CPU, but not the code that writes a result file."""
    machine = Machine()

    class Event:
        def record(self) -> None:
            machine.do("event")
            self.at = time.perf_counter()

        @property
        def done(self) -> bool:
            machine.late -= 1
            return machine.late >= 0

        def synchronize(self) -> None:
            pass

    class Stream:
        ptr = 1

        def __init__(self, non_blocking: bool) -> None:
            assert non_blocking

        def use(self) -> None:
            pass

        def begin_capture(self) -> None:
            machine.captured = []

        def end_capture(self) -> Any:
            work, machine.captured = machine.captured, None
            return SimpleNamespace(
                launch=lambda stream: machine.do("graph", lambda: [run() for run in work])
            )

    def array(shape: Any, dtype: Any) -> Any:
        return np.zeros(shape, dtype).view(Copied)

    class Copied(np.ndarray):
        """With cupy's way of copying an array on the device."""

        @property
        def data(self) -> Any:
            return SimpleNamespace(copy_from_device_async=lambda data, nbytes: machine.do("copy"))

    device = SimpleNamespace(id=0, pci_bus_id="none", synchronize=lambda: None)
    cuda = SimpleNamespace(
        Device=lambda: device,
        Event=Event,
        Stream=Stream,
        get_elapsed_time=lambda a, b: (b.at - a.at) * 1e3,
    )
    names = ("asarray", "empty", "full", "zeros", "float32", "int64")
    cupy = SimpleNamespace(**{name: getattr(np, name) for name in names})
    pool = SimpleNamespace(free_all_blocks=lambda: None)
    cupy.__dict__.update(cuda=cuda, get_default_memory_pool=lambda: pool, __version__="0")
    cupy.sum = lambda a, out: machine.do("flush")
    properties = {"name": "Stand-In", "multiprocessors": 1, "l2_bytes": 1 << 12}
    module = SimpleNamespace(
        __spec__=ModuleSpec("byhand._cuda", None),
        device_properties=lambda device: {
            **properties,
            "compute_capability": machine.capability,
        },
        driver_version=lambda: 1,
        runtime_version=lambda: 2,
    )
    kernels = backend.cuda_on_cpu()

    def queued(name: str) -> Any:
        kernel = getattr(kernels, name)
        return lambda *arguments: machine.do("kernel", lambda: kernel(*arguments))

    there = backend.Kernels("cuda_on_cpu", {name: queued(name) for name in kernels.available})

    def copier(self: Any) -> Any:
        a, b = array(1 << 18, np.float32), array(1 << 18, np.float32)
        return lambda: b.data.copy_from_device_async(a.data, a.nbytes), 2 * a.nbytes

    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "byhand._cuda", module)
    monkeypatch.setattr(backend, "cuda", lambda: there)
    monkeypatch.setattr(gpu_device.Gpu, "_copier", copier)
    monkeypatch.setattr(gpu_device.Gpu, "without_torch", lambda self: "not run: a stand-in")
    small = collect.gpu_cases
    monkeypatch.setattr(
        collect, "gpu_cases", lambda xp, sizes, *groups, **chosen: small(xp, "small", **chosen)
    )
    monkeypatch.setattr(
        gpu, "circumstances", lambda measured: {"date": "2026-01-02", "commit": "abc"}
    )
    return machine
