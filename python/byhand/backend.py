"""The one place that decides which kernels run.

An array's home decides: a cupy array runs on ``_cuda``; a numpy float64 array runs on the numpy
reference (check mode: the truth that finite differences test); any other numpy array runs on the
best CPU module that this machine can execute. There is no silent fallback: what is missing is an
error that says so.

Arrays that kernels write are allocated here too, on the same home as the array they belong to.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import math
import os
import sys
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Annotated, Any

import numpy as np

from byhand import _host, cublaslt

# Directions of a kernel's arguments, the same words as in csrc/core/array.h. The reference kernels
# are annotated with them, and the tests read them.
In = Annotated[np.ndarray, "In"]
Out = Annotated[np.ndarray, "Out"]
Acc = Annotated[np.ndarray, "Acc"]
Mut = Annotated[np.ndarray, "Mut"]
StridedIn = Annotated[np.ndarray, "StridedIn"]
StridedOut = Annotated[np.ndarray, "StridedOut"]

# What products are computed in. In bf16 their factors are rounded to bfloat16, and everything else,
# every array too, stays float32.
PRECISIONS = ("float32", "bf16")

Array = Any  # a numpy.ndarray or a cupy.ndarray

_FLOAT32 = np.dtype(np.float32)
_FLOAT64 = np.dtype(np.float64)
# Arguments of kernels that are not floating, by name; all others are.
_NOT_FLOAT = {
    **dict.fromkeys(("ids", "targets", "lengths", "t", "bounds"), np.dtype(np.int64)),
    "mask": np.dtype(np.bool_),
}
_SMALL = 4096  # bytes below which numpy's own allocator is quicker than the pool


class MissingKernelError(NotImplementedError, AttributeError):
    """A back end lacks a kernel. An AttributeError too, so that hasattr() can ask for one."""


class Kernels:
    """The kernels of one back end, as attributes."""

    def __init__(self, name: str, functions: dict[str, Callable[..., None]]):
        self.name = name
        self.available = sorted(functions)
        self.__dict__.update(functions)

    def __getattr__(self, kernel: str) -> Callable[..., None]:
        raise MissingKernelError(
            f"{kernel} has no {self.name} kernel; {self.name} has: {', '.join(self.available)}"
        )

    def __repr__(self) -> str:
        return f"<{self.name}: {len(self.available)} kernels>"


def kernels(x: Array) -> Kernels:
    """The kernels for the home of ``x``.

    Raises TypeError for anything that is not a float32 or float64 numpy array or a cupy array.
    """
    if isinstance(x, np.ndarray):
        if x.dtype == _FLOAT32:
            return _state.cpu or cpu()
        if x.dtype == _FLOAT64:
            return reference
        raise TypeError(
            f"numpy arrays must be float32 (fast kernels) or float64 (check mode), got {x.dtype}"
        )
    if is_cupy(x):
        return cuda()
    raise TypeError(f"expected a numpy or cupy array, got {type(x).__name__}")


def is_cupy(x: object) -> bool:
    return type(x).__module__.partition(".")[0] == "cupy"


def xp(x: Array) -> Any:
    """The array library that ``x`` belongs to: numpy or cupy."""
    return sys.modules["cupy"] if is_cupy(x) else np


def empty(shape: tuple[int, ...], like: Array, dtype: Any = None) -> Array:
    """An uninitialised array on the home of ``like``; large CPU arrays come from the pool."""
    dtype = like.dtype if dtype is None else np.dtype(dtype)
    if isinstance(like, np.ndarray):
        if math.prod(shape) * dtype.itemsize < _SMALL:
            return np.empty(shape, dtype)
        return _host.empty(shape, dtype)
    return xp(like).empty(shape, dtype)


def zeros(shape: tuple[int, ...], like: Array, dtype: Any = None) -> Array:
    array = empty(shape, like, dtype)
    array[...] = 0
    return array


def copy_to(to: Array, host: np.ndarray) -> None:
    """Copies a numpy array of the same shape and dtype to ``to``, wherever that is. On a GPU it
    takes its turn on the current stream and allocates nothing there.
    """
    if isinstance(to, np.ndarray):
        to[...] = host
    else:
        to.set(host)


def to_device_of(a: Array, like: Array) -> Array:
    """``a`` as an array on the home of ``like``, copied between devices when it must be. Copying
    from a GPU waits for it.
    """
    return to_numpy(a) if isinstance(like, np.ndarray) else xp(like).asarray(a)


def to_numpy(a: Array) -> np.ndarray:
    """``a`` as a numpy array, copied from a GPU when it must be, which waits for that."""
    return a.get() if is_cupy(a) else a


def bfloat16() -> np.dtype:
    """The dtype of bfloat16 arrays on a GPU. ImportError without the package ml_dtypes."""
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def statistics(x: Array) -> Any:
    """The dtype of what kernels sum up over ``x``: float32 at least."""
    return x.dtype if x.dtype.itemsize >= 4 else _FLOAT32


# --- CPU modules -------------------------------------------------------------------------------


class _State:
    cpu: Kernels | None = None
    cuda: Kernels | None = None


_state = _State()


def _load(name: str) -> ModuleType:
    return importlib.import_module(f"byhand._{name}")


@functools.cache
def _namespace(name: str) -> Kernels:
    module = _load(name)
    if name.startswith("cuda") and os.environ.get("BYHAND_GEMM") == "cublaslt":
        _find_cublaslt(name)
    return Kernels(name, {kernel: getattr(module, kernel) for kernel in module.kernels})


def built_modules() -> list[str]:
    """Native back ends that this installation contains, such as ``cpu_avx2``."""
    names = ["cpu_base", "cpu_avx2", "cpu_avx512", "cpu_avx512bf16", "cpu_neon"]
    names += ["cuda", "cuda_on_cpu"]
    return [n for n in names if importlib.util.find_spec(f"byhand._{n}") is not None]


def _usable_cpu() -> list[str]:
    built = built_modules()
    return [n for n in _host.runnable_backends() if n in built]


def cpu_modules() -> dict[str, Kernels]:
    """Every CPU back end that is built and that this machine can run, the best one last."""
    return {name: _namespace(name) for name in _usable_cpu()}


def cpu() -> Kernels:
    """The CPU back end in use: the best one, or the one ``BYHAND_CPU`` names."""
    if _state.cpu is None:
        names = _usable_cpu()
        if not names:
            built = ", ".join(built_modules()) or "none"
            raise RuntimeError(
                f"no CPU back end can run here: built are {built}, this machine runs "
                f"{', '.join(_host.runnable_backends())}"
            )
        wanted = os.environ.get("BYHAND_CPU")
        if wanted is None:
            wanted = names[-1]
        elif (wanted := f"cpu_{wanted.removeprefix('cpu_')}") not in names:
            raise RuntimeError(
                f"BYHAND_CPU asks for {wanted}, but this machine can run: {', '.join(names)}"
            )
        _state.cpu = _namespace(wanted)
    return _state.cpu


def has_bf16() -> bool:
    """Whether the CPU back end in use multiplies bfloat16 with instructions of its own. Elsewhere
    bf16 gives the same roundings at the speed of float32.
    """
    return cpu().name == "cpu_avx512bf16"


@contextmanager
def use_cpu(name: str) -> Iterator[Kernels]:
    """Runs float32 numpy arrays on one CPU back end, by name, inside a ``with`` block."""
    if name not in cpu_modules():
        raise ValueError(f"{name} is not one of {', '.join(cpu_modules())}")
    before = _state.cpu
    _state.cpu = _namespace(name)
    try:
        yield _state.cpu
    finally:
        _state.cpu = before


def get_num_threads() -> int:
    """How many threads the CPU kernels use."""
    return _load(cpu().name).num_threads()


def set_num_threads(n: int) -> None:
    """Sets how many threads the CPU kernels use; the results are the same bits for any number.

    The default is ``OMP_NUM_THREADS`` when set, else the CPUs this process may use.
    Raises ValueError unless 1 <= n <= 256.
    """
    if not isinstance(n, (int, np.integer)) or isinstance(n, bool):
        raise TypeError(f"the number of threads must be an int, got {type(n).__name__}")
    if not 1 <= n <= 256:
        raise ValueError(f"the number of threads must be between 1 and 256, got {n}")
    for name in cpu_modules():
        _load(name).set_num_threads(int(n))


def last_level_cache() -> int:
    """Bytes of the last-level caches that the threads of the CPU kernels use together."""
    return _load(cpu().name).last_level_cache()


# --- CUDA --------------------------------------------------------------------------------------


class CudaUnavailable(RuntimeError):
    """CUDA was asked for and cannot be used; the message says why."""


def cuda_reason() -> str:
    """Why CUDA kernels cannot run here; an empty string when they can."""
    if "cuda" not in built_modules():
        from byhand import _build

        return f"byhand was built without CUDA: {_build.CUDA_REASON or 'no reason recorded'}"
    try:
        count, reason = _load("cuda").device_count()
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
    """The CUDA back end. Raises CudaUnavailable with the reason."""
    if _state.cuda is None:
        if reason := cuda_reason():
            raise CudaUnavailable(reason)
        _state.cuda = _namespace("cuda")
    return _state.cuda


def multiprocessors(x: Array) -> int:
    """How many multiprocessors the GPU has that ``x`` lives on. On the CPU a constant: what is
    split by it gives the same bits for any number of threads.
    """
    return _multiprocessors(x.device.id) if is_cupy(x) else 32


@functools.cache
def _multiprocessors(device: int) -> int:
    return int(_load("cuda").device_properties(device)["multiprocessors"])


@contextmanager
def cuda_gemm(name: str, module: str = "cuda") -> Iterator[None]:
    """Multiplies matrices on the GPU with our own kernels, ``hand``, or with NVIDIA's cuBLASLt,
    ``cublaslt``, inside a ``with`` block. Elsewhere it is what ``BYHAND_GEMM`` says, or ``hand``.
    Raises ValueError for any other name; an op that needs cuBLASLt and cannot load it raises
    RuntimeError.
    """
    native = _load(module)
    before = native.gemm()
    native.set_gemm(name)
    if name == "cublaslt":
        _find_cublaslt(module)
    try:
        yield
    finally:
        native.set_gemm(before)


@functools.cache
def _find_cublaslt(module: str) -> None:
    """Tells the module where it may find the library, once."""
    _load(module).set_cublaslt_paths(cublaslt.found())


# --- CUDA on the CPU -----------------------------------------------------------------------------


def cuda_on_cpu() -> Kernels:
    """The CUDA kernels compiled for the CPU, taking numpy arrays of float32 or bfloat16
    (``ml_dtypes``): for tests, and never picked on its own.

    A block's threads take turns in the order that ``cuda_on_cpu_schedule`` sets. What CUDA leaves
    undefined, such as a barrier that not all threads reach, is a RuntimeError that names the
    kernel, the source line, the block and the threads. Raises CudaUnavailable where it is not
    built.
    """
    if "cuda_on_cpu" not in built_modules():
        raise CudaUnavailable("byhand was built without the CUDA kernels for the CPU")
    return _namespace("cuda_on_cpu")


@contextmanager
def cuda_on_cpu_schedule(schedule: str) -> Iterator[None]:
    """Runs the threads of CUDA blocks in another order inside a ``with`` block.

    The order is ``forward`` or ``reverse`` (round robin), ``random:SEED``, ``warp-greedy`` or
    ``warp-greedy-reverse`` (a warp runs as far as it can before the next one starts); after a blank
    comes ``early`` or ``late``: whether asynchronous copies happen when they are issued or when
    they are waited for. Elsewhere it is what ``BYHAND_SCHEDULE`` says, or ``forward late``.
    Raises ValueError for anything else.
    """
    cuda_on_cpu()
    module = _load("cuda_on_cpu")
    before = module.schedule()
    module.set_schedule(schedule)
    try:
        yield
    finally:
        module.set_schedule(before)


# --- The reference -----------------------------------------------------------------------------

reference = Kernels("reference", {})


def _directions(body: Callable[..., None]) -> list[tuple[str, str, bool]]:
    """(name, direction, may be None) of each array argument; "" for scalars."""
    hints = typing.get_type_hints(body, include_extras=True)
    found = []
    for name in inspect.signature(body).parameters:
        options = typing.get_args(hints[name]) if type(None) in typing.get_args(hints[name]) else ()
        hint = options[0] if options else hints[name]
        direction = hint.__metadata__[0] if hasattr(hint, "__metadata__") else ""
        found.append((name, direction, bool(options)))
    return found


def reference_kernel(body: Callable[..., None]) -> Callable[..., None]:
    """Registers ``body`` as the numpy reference of the kernel it is named after.

    The wrapper checks what the native binding checks: kind of array, dtype (float64), contiguity,
    writability. ``__wrapped__`` is the bare body, which also runs in float32 for calibration.
    """
    name = body.__name__
    arguments = _directions(body)

    @functools.wraps(body)
    def checked(*args: Any) -> None:
        if len(args) != len(arguments):
            raise TypeError(f"{name}: takes {len(arguments)} arguments, got {len(args)}")
        for (argument, direction, optional), value in zip(arguments, args, strict=True):
            if direction:
                _check_representation(name, argument, direction, optional, value)
        body(*args)

    checked.directions = arguments  # type: ignore[attr-defined]
    reference.__dict__[name] = checked
    reference.available = sorted([*reference.available, name])
    return checked


def _check_representation(
    kernel: str, argument: str, direction: str, optional: bool, value: Any
) -> None:
    if value is None:
        if optional:
            return
        raise TypeError(f"{kernel}: {argument} must be an array, got None")
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{kernel}: {argument} must be a numpy array, got {_describe(value)}")
    expected = _NOT_FLOAT.get(argument, _FLOAT64)
    if value.dtype != expected:
        raise TypeError(f"{kernel}: {argument} must be {expected}, got {_describe(value)}")
    if direction in ("Out", "Acc", "Mut", "StridedOut") and not value.flags.writeable:
        raise TypeError(f"{kernel}: {argument} is read-only")
    if not value.flags.aligned:
        raise TypeError(
            f"{kernel}: {argument} must begin at a multiple of {value.itemsize} bytes, as its "
            "dtype asks"
        )
    if not direction.startswith("Strided") and not value.flags.c_contiguous:
        raise TypeError(
            f"{kernel}: {argument} must be C-contiguous, got strides {value.strides} "
            f"for shape {value.shape}"
        )


def _describe(value: Any) -> str:
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        kind, shape = type(value).__module__, tuple(value.shape)
        return f"a {kind} array of dtype {value.dtype} and shape {shape}"
    return type(value).__name__
