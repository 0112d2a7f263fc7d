"""The CUDA back end: whether it can run, how its matrices are multiplied, and the same kernels
compiled for the CPU.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from byhand.backend import native
from byhand.backend.arrays import is_cupy
from byhand.backend.native import Kernels, state
from byhand.backend.types import Array


class CudaUnavailable(RuntimeError):
    """CUDA was asked for and cannot be used; the message says why."""


def cuda_reason() -> str:
    """Why CUDA kernels cannot run here; an empty string when they can."""
    if "cuda" not in native.built_modules():
        from byhand import _build

        return f"byhand was built without CUDA: {_build.CUDA_REASON or 'no reason recorded'}"
    try:
        count, reason = native.load("cuda").device_count()
    except ImportError as error:
        return f"the CUDA kernels cannot be loaded: {error}"
    if count == 0:
        return f"no CUDA device: {reason}"
    if importlib.util.find_spec("cupy") is None:
        return "cupy is not installed; install byhand with the extra: pip install 'byhand[cuda]'"
    try:
        importlib.import_module("cupy")
    except ImportError as error:
        return f"cupy cannot be imported: {error}"
    return ""


def cuda() -> Kernels:
    """The CUDA back end. Raises CudaUnavailable with the reason.

    The first call says on standard error if the driver has to compile the kernels for this GPU.
    """
    if state.cuda is None:
        if reason := cuda_reason():
            raise CudaUnavailable(reason)
        state.cuda = native.kernels_of("cuda")
        if said := _compiled_by_the_driver():
            print(f"byhand: {said}", file=sys.stderr)
    return state.cuda


def _compiled_by_the_driver() -> str:
    """One sentence if this build has no machine code for the current GPU, only PTX; else empty."""
    from byhand import _build

    # Installations that were built before the build recorded it do not have it.
    architectures = getattr(_build, "CUDA_ARCHITECTURES", "").split(";")
    real = [a.removesuffix("-real") for a in architectures if not a.endswith("-virtual")]
    if len(real) == len(architectures):
        return ""
    device = importlib.import_module("cupy").cuda.Device().id
    major, minor = native.load("cuda").device_properties(device)["compute_capability"]
    if any(_runs_on(architecture, major, minor) for architecture in real):
        return ""
    there = ", ".join(f"sm_{a}" for a in real) or "none"
    return (
        f"this GPU has compute capability {major}.{minor}, for which this build has no machine "
        f"code (it has {there}); the driver compiles each kernel when it is first used, which "
        "takes a while"
    )


def _runs_on(architecture: str, major: int, minor: int) -> bool:
    """Whether machine code for `architecture`, such as 80 or 90a, runs on a GPU of this compute
    capability: on the same major number and the same or a later minor one, but with the letter a
    on that capability alone.
    """
    number = architecture.rstrip("af")
    if not number.isdigit():  # native, all
        return True
    same, least = int(number) // 10 == major, int(number) % 10
    return same and (minor == least if architecture.endswith("a") else minor >= least)


def multiprocessors(x: Array) -> int:
    """How many multiprocessors the GPU of ``x`` has. On the CPU a constant: sums that are split by
    it give the same bits for any number of threads.
    """
    return device_multiprocessors(x.device.id) if is_cupy(x) else 32


@functools.cache
def device_multiprocessors(device: int) -> int:
    return int(native.load("cuda").device_properties(device)["multiprocessors"])


@contextmanager
def cuda_gemm(name: str, module: str = "cuda") -> Iterator[None]:
    """Multiplies matrices on the GPU with our own kernels, ``hand``, or with NVIDIA's cuBLASLt,
    ``cublaslt``, inside a ``with`` block. Elsewhere it is what ``BYHAND_GEMM`` says, or ``hand``.
    Raises ValueError for any other name; an op that needs cuBLASLt and cannot load it raises
    RuntimeError.
    """
    library = native.load(module)
    before = library.gemm()
    library.set_gemm(name)
    if name == "cublaslt":
        native.find_cublaslt(module)
    try:
        yield
    finally:
        library.set_gemm(before)


def cuda_on_cpu() -> Kernels:
    """The CUDA kernels compiled for the CPU, taking numpy arrays of float32 or bfloat16
    (``ml_dtypes``): for tests. ``kernels`` never chooses it.

    A block's threads run one at a time in the order that ``cuda_on_cpu_schedule`` sets. What CUDA
    leaves undefined, such as a barrier that not all threads reach, is a RuntimeError that names the
    kernel, the source line, the block and the threads. Raises CudaUnavailable where it is not
    built.
    """
    if "cuda_on_cpu" not in native.built_modules():
        raise CudaUnavailable(
            "the CUDA kernels for the CPU are not installed: pip install ./tests/cuda_on_cpu"
        )
    return native.kernels_of("cuda_on_cpu")


@contextmanager
def cuda_on_cpu_schedule(schedule: str) -> Iterator[None]:
    """Runs the threads of CUDA blocks in another order inside a ``with`` block.

    The order is ``forward`` or ``reverse`` (round robin), ``random:SEED``, ``warp-greedy`` or
    ``warp-greedy-reverse`` (a warp runs as far as it can before the next one starts). A second word
    may follow, ``early`` or ``late``: asynchronous copies happen when they are issued, or when they
    are waited for (the default); and a third, ``truncate`` or ``nearest``: tensor cores truncate
    their sums, as those of GPUs do (the default), or round them. Outside the block the schedule is
    that of the variable ``BYHAND_SCHEDULE``, or else ``forward late truncate``.
    Raises ValueError for anything else.
    """
    cuda_on_cpu()
    module = native.load("cuda_on_cpu")
    before = module.schedule()
    module.set_schedule(schedule)
    try:
        yield
    finally:
        module.set_schedule(before)
