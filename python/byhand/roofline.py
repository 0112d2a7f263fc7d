"""The roofline of this machine: the most that its arithmetic units and its memory can do.

The benches compare every kernel with it (Williams, Waterman and Patterson, "Roofline", 2009). It is
measured, because data sheets do not know the clock of a virtual machine, nor its share of the
memory bus. The kernels that do it are the probes of csrc/core/roofline.cpp.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from byhand import backend

_LARGEST = 256 << 20  # bytes of one array: larger than any usual cache, and fits a laptop
_SHORT = 0.005  # seconds
# Floats in a row of the chains, see roofline.cpp: whole vectors of any width, and four tiles.
_CHAIN = 12 * 16
_TILES = 4 * 16 * 16


@dataclass(frozen=True)
class Probe:
    """Something to time: ``run`` does ``amount`` operations, or moves as many bytes."""

    run: Callable[[], None]
    amount: float


@dataclass(frozen=True)
class Roofline:
    """The limits of one CPU back end on all its threads.

    ``gflops`` are float32 multiply-adds (two operations each), ``bf16_gflops`` those of bfloat16
    products with float32 sums: of tiles where the processor has them, else of the dot product;
    None where the back end has neither instruction.

    The streams of memory are in GB/s over arrays of ``array_bytes`` each, far larger than the
    ``cache_bytes`` of the last-level caches: ``copy`` y = a, ``read`` the sum of a, ``triad``
    y = a + s b, ``update`` a = a + s b. They count the bytes that the program asks for: 2, 1, 3 and
    3 arrays. Copy and triad store past the caches (non-temporal stores), as the kernels do with
    results that no cache holds: otherwise the processor would read what it is about to overwrite.
    """

    backend: str
    threads: int
    gflops: float
    bf16_gflops: float | None
    copy: float
    read: float
    triad: float
    update: float
    cache_bytes: int
    array_bytes: int


def measure(array_bytes: int | None = None, runs: int = 12) -> Roofline:
    """The roofline of the CPU back end in use, in about a second: the best of several short runs.

    The best, because other load on the machine can only lower a run. Where the memory bus is
    shared, the bandwidth may still change from minute to minute; a bench that divides by it takes
    turns between the stream and the kernel it is compared with.
    """
    size = array_bytes or outside_caches()
    bf16 = bf16_products()
    return Roofline(
        backend=backend.cpu().name,
        threads=backend.get_num_threads(),
        gflops=_best(multiply_adds(), runs),
        bf16_gflops=None if bf16 is None else _best(bf16, runs),
        **{name: _best(stream(size), runs) for name, stream in STREAMS.items()},
        cache_bytes=backend.last_level_cache(),
        array_bytes=size,
    )


def multiply_adds(seconds: float = _SHORT) -> Probe:
    """Float32 multiply-adds on all threads, for about `seconds`."""
    return _chains(backend.cpu().multiply_add_probe, 2, seconds)


def bf16_products(seconds: float = _SHORT) -> Probe | None:
    """Bfloat16 products with float32 sums on all threads, by the fastest instruction that the back
    end uses; None where it has none for them.
    """
    kernels = backend.cpu()
    if tiles := getattr(kernels, "bf16_tile_probe", None):
        return _chains(tiles, 64, seconds, _TILES)
    dots = getattr(kernels, "bf16_dot_probe", None)
    return None if dots is None else _chains(dots, 4, seconds)


def copy(size: int) -> Probe:
    """y = x over arrays of `size` bytes."""
    (y, x), kernel = _arrays(2, size), backend.cpu().copy_probe
    return Probe(lambda: kernel(y, x), 2.0 * y.nbytes)


def read(size: int) -> Probe:
    """The sum of an array of `size` bytes."""
    (x,), kernel = _arrays(1, size), backend.cpu().read_probe
    sums = np.empty(256, np.float32)
    return Probe(lambda: kernel(sums, x), 1.0 * x.nbytes)


def triad(size: int) -> Probe:
    """y = a + s b over arrays of `size` bytes."""
    (y, a, b), kernel = _arrays(3, size), backend.cpu().triad_probe
    return Probe(lambda: kernel(y, a, b, 0.5), 3.0 * y.nbytes)


def update(size: int) -> Probe:
    """a = a + s b over arrays of `size` bytes."""
    (a, b), kernel = _arrays(2, size), backend.cpu().triad_probe
    return Probe(lambda: kernel(a, a, b, 1e-3), 3.0 * a.nbytes)


STREAMS = {"copy": copy, "read": read, "triad": triad, "update": update}


def outside_caches() -> int:
    """A size in bytes for arrays that no cache holds."""
    return min(max(4 * backend.last_level_cache(), 64 << 20), _LARGEST)


def _arrays(count: int, size: int) -> list[np.ndarray]:
    # numpy's own memory, aligned like the pool's: the pool would keep blocks of this size for later
    # use, and no kernel needs any.
    arrays = []
    for _ in range(count):
        line = 64 // 4
        block = np.ones(size // 4 + line, np.float32)
        start = -block.ctypes.data // 4 % line
        arrays.append(block[start : start + size // 4])
    return arrays


def _chains(
    kernel: Callable[..., None], operations: int, seconds: float, floats: int = _CHAIN
) -> Probe:
    y = np.ones((backend.get_num_threads(), floats), np.float32)

    def probe(rounds: int) -> Probe:
        return Probe(lambda: kernel(y, 0.5, 0.5, rounds), float(operations * y.size * rounds))

    rounds = 1000
    while _shortest(probe(rounds), 1) < seconds:
        rounds *= 2
    return probe(rounds)


def _best(probe: Probe, runs: int) -> float:
    """10**9 a second."""
    return probe.amount / _shortest(probe, runs) / 1e9


def _shortest(probe: Probe, runs: int) -> float:
    """Seconds of the shortest of `runs` runs, after one that warms up."""
    probe.run()
    best = math.inf
    for _ in range(runs):
        start = time.perf_counter()
        probe.run()
        best = min(best, time.perf_counter() - start)
    return best
