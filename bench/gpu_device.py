"""Where bench.gpu runs the kernels: on the GPU, or in a dry run on the CPU."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from byhand import backend

CLOCKS = (
    "clocks.sm",
    "clocks.mem",
    "temperature.gpu",
    "power.draw",
    "clocks_throttle_reasons.active",
)


DRY = "dry run on the CPU"  # a name for what is no GPU
MOST_COPIES = 16  # before a call that is timed


class Gpu:
    """The device that cupy uses, and a stream on it that is the current one of cupy and PyTorch: a
    graph cannot be captured on the default stream, and PyTorch runs a backward pass on the stream
    of its forward pass. Raises CudaUnavailable with the reason.
    """

    dry = False

    @property
    def hopper(self) -> bool:
        """Whether its kernels for Hopper run; elsewhere the portable ones would."""
        return tuple(self._properties["compute_capability"]) == (9, 0)

    def __init__(self) -> None:
        self.kernels = backend.cuda()
        import cupy

        self.xp = cupy
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._stream.use()
        if not self.without_torch():
            import torch

            torch.cuda.set_stream(torch.cuda.ExternalStream(self._stream.ptr))
        self._properties = sys.modules["byhand._cuda"].device_properties(cupy.cuda.Device().id)
        self.groups = 4 * self._properties["multiprocessors"]
        # Reading four times the cache replaces all that it holds, and leaves nothing to write back.
        self._large = cupy.zeros(self._properties["l2_bytes"], np.float32)
        self._sum = cupy.zeros((), np.float32)
        self._copy_once, self._copied_bytes = self._copier()
        self._copies = 1  # before a call that is timed

    def flush(self) -> None:
        self.xp.sum(self._large, out=self._sum)

    def synchronize(self) -> None:
        self.xp.cuda.Device().synchronize()

    def free(self) -> None:
        self.xp.get_default_memory_pool().free_all_blocks()

    def milliseconds(self, run: Callable[[], Any]) -> float:
        """The time of what `run` puts on the stream, from an empty cache.

        The GPU is kept busy until all of it is queued, so that the time does not depend on how fast
        the host is. If it was not busy for long enough, the run is timed again after more work.
        """
        while True:
            for _ in range(self._copies):
                self._copy_once()
            self.flush()
            start, end = self.xp.cuda.Event(), self.xp.cuda.Event()
            start.record()
            run()
            end.record()
            in_time = not start.done
            end.synchronize()
            if in_time or self._copies >= MOST_COPIES:
                return float(self.xp.cuda.get_elapsed_time(start, end))
            self._copies *= 2

    def captured(self, run: Callable[[], Any], by_torch: bool = False) -> Callable[[], Any]:
        """Captures what `run` puts on the stream -> the launch of the graph. It must have run once
        before. Raises what the capture raises.
        """
        if by_torch:
            import torch

            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
                run()
            return graph.replay
        self._stream.begin_capture()
        try:
            run()
        except BaseException:
            with suppress(Exception):  # the graph is incomplete, and ending it may fail too
                self._stream.end_capture()
            raise
        return partial(self._stream.end_capture().launch, self._stream)

    def copier(self) -> tuple[Callable[[], Any], int]:
        """The driver's own copy of 1 GiB, and the bytes it reads and writes."""
        return self._copy_once, self._copied_bytes

    def _copier(self) -> tuple[Callable[[], Any], int]:
        a = self.xp.zeros(1 << 28, np.float32)
        b = self.xp.empty_like(a)
        return lambda: b.data.copy_from_device_async(a.data, a.nbytes), 2 * a.nbytes

    def without_torch(self) -> str:
        """Why PyTorch does not take part; empty when it does."""
        try:
            import torch
        except (ImportError, OSError) as error:  # OSError: a library of it cannot be loaded
            return f"not run: {error}"
        return "" if torch.cuda.is_available() else "not run: this PyTorch has no CUDA"

    def facts(self) -> dict[str, Any]:
        module: Any = sys.modules["byhand._cuda"]
        found = {"driver": module.driver_version(), "cuda_runtime": module.runtime_version()}
        return {**found, **self._properties, "cupy": self.xp.__version__}

    def clocks(self) -> dict[str, str]:
        """Clocks, temperature and power at this moment, as nvidia-smi reports them."""
        command = ["nvidia-smi", f"--query-gpu={','.join(CLOCKS)}", "--format=csv,noheader"]
        command.append(f"--id={self.xp.cuda.Device().pci_bus_id}")
        try:
            line = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError) as error:
            return {"not read": str(error)}
        return dict(zip(CLOCKS, (word.strip() for word in line.split(",")), strict=False))


class OnCpu:
    """The same .cu files compiled for the CPU: this tests the harness, its times mean nothing.
    Raises CudaUnavailable with the reason.
    """

    dry = hopper = True
    xp: Any = np
    groups = 4

    def __init__(self) -> None:
        self.kernels = backend.cuda_on_cpu()

    def synchronize(self) -> None:
        pass

    def free(self) -> None:
        pass

    def milliseconds(self, run: Callable[[], Any]) -> float:
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) * 1e3

    def captured(self, run: Callable[[], Any], by_torch: bool = False) -> Callable[[], Any]:
        raise RuntimeError("a CPU has no graphs")

    def copier(self) -> tuple[Callable[[], Any], int]:
        a = np.zeros(1 << 18, np.float32)
        b = np.empty_like(a)
        return lambda: np.copyto(b, a), 2 * a.nbytes

    def without_torch(self) -> str:
        return "not run: a dry run"

    def facts(self) -> dict[str, Any]:
        return {"name": DRY}

    def clocks(self) -> dict[str, str]:
        return {}


Device = Gpu | OnCpu
