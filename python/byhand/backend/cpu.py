"""The CPU back ends, one for each instruction set, and the threads of their kernels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from byhand import _host
from byhand.backend import native
from byhand.backend.native import Kernels, state
from byhand.backend.types import Array


def _runnable() -> list[str]:
    """The back ends that are built and whose instructions this processor has, the best one last."""
    built = native.built_modules()
    return [n for n in _host.runnable_backends() if n in built]


def cpu_modules() -> dict[str, Kernels]:
    """Every CPU back end that is built and that can run here, the best one last."""
    found = {}
    for name in _runnable():
        try:
            found[name] = native.kernels_of(name)
        except ImportError:  # a list of what can run leaves it out; `cpu` raises
            continue
    return found


def cpu() -> Kernels:
    """The CPU back end in use: the best one, or the one ``BYHAND_CPU`` names.

    Raises RuntimeError when none can run or ``BYHAND_CPU`` names one that cannot, ImportError when
    its module cannot be loaded.
    """
    if state.cpu is None:
        names = _runnable()
        if not names:
            built = ", ".join(native.built_modules()) or "none"
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
        state.cpu = native.kernels_of(wanted)
    return state.cpu


def has_bf16() -> bool:
    """Whether the CPU back end in use multiplies bfloat16 with instructions of its own. Elsewhere
    bf16 gives the same roundings at the speed of float32.
    """
    return cpu().name == "cpu_avx512bf16"


@contextmanager
def use_cpu(name: str) -> Iterator[Kernels]:
    """Runs float32 numpy arrays on one CPU back end, by name, inside a ``with`` block. ValueError
    for a name that ``cpu_modules`` does not list.
    """
    if name not in cpu_modules():
        raise ValueError(f"{name} is not one of {', '.join(cpu_modules())}")
    before = state.cpu
    chosen = state.cpu = native.kernels_of(name)
    try:
        yield chosen
    finally:
        state.cpu = before


def get_num_threads() -> int:
    """How many threads the CPU kernels use."""
    return native.load(cpu().name).num_threads()


def set_num_threads(n: int) -> None:
    """Sets how many threads the CPU kernels use; the results are the same bits for any number.

    The default is ``OMP_NUM_THREADS`` when set, else the CPUs this process may use.
    Raises ValueError unless 1 <= n <= 256, TypeError unless n is an int.
    """
    if not isinstance(n, (int, np.integer)) or isinstance(n, bool):
        raise TypeError(f"the number of threads must be an int, got {type(n).__name__}")
    if not 1 <= n <= 256:
        raise ValueError(f"the number of threads must be between 1 and 256, got {n}")
    for name in cpu_modules():
        native.load(name).set_num_threads(int(n))


def last_level_cache() -> int:
    """Bytes of the last-level caches that the threads of the CPU kernels use together."""
    return native.load(cpu().name).last_level_cache()


def set_zero(array: Array) -> None:
    """Writes zeros into a contiguous array; into one of float32 on the CPU on all threads."""
    if isinstance(array, np.ndarray) and array.dtype == np.float32 and array.flags.c_contiguous:
        native.load(cpu().name).zero(array)
    else:
        array.fill(0)
