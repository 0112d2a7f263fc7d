"""Memory planning for a step that makes the same allocations every time: each array gets a fixed
offset in one block. Plans that are never in use at the same time can share a block.

The step runs once while its allocations through cupy, and the release of each, are recorded. Arrays
that do not exist at the same time may share memory, so the size of the block is the step's peak use
and not the sum of all arrays. In later runs the n-th allocation of the step gets the n-th offset in
the block: no memory is allocated and all addresses stay the same, as a CUDA graph requires.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from byhand.backend import Array

_ALIGNMENT = 512  # bytes, the alignment of cupy's own pool


class Plan:
    """`record()` one step, then `replay(block)` any number of steps; both are context managers.

    Attributes:
        nbytes: the smallest size of the block in bytes; 0 before a step was recorded.
    """

    def __init__(self) -> None:
        self.nbytes = 0
        self._sizes: list[int] = []
        self._events: list[int] = []  # n: allocation n is made; ~n: it is freed
        self._offsets: list[int] = []
        self._block: Any = None
        self._next = 0

    @contextmanager
    def record(self) -> Iterator[None]:
        """Records the allocations made in the `with` block, which runs as usual."""
        import cupy

        self._sizes, self._events = [], []
        with cupy.cuda.using_allocator(self._recorded):
            yield
        # Arrays that still exist are results of the step and keep their places.
        self._offsets, self.nbytes = lay_out(self._sizes, self._events)
        self._events = []  # later releases must not change the plan

    @contextmanager
    def replay(self, block: Array) -> Iterator[None]:
        """Gives allocations in the `with` block the planned places in `block`, an array of bytes.

        Raises RuntimeError when the allocations differ from those of the recorded step.
        """
        import cupy

        self._block, self._next = block, 0
        with cupy.cuda.using_allocator(self._planned):
            yield
        if self._next != len(self._sizes):
            raise RuntimeError(
                f"the step made {self._next} allocations, and {len(self._sizes)} when it was "
                "planned: a planned step must do the same every time"
            )

    def _recorded(self, nbytes: int) -> Any:
        import cupy

        n, events = len(self._sizes), self._events
        self._sizes.append(nbytes)
        events.append(n)
        real = cupy.get_default_memory_pool().malloc(nbytes)
        return _pointer(real.ptr, nbytes, _Owner(real, lambda: events.append(~n)))

    def _planned(self, nbytes: int) -> Any:
        n = self._next
        if n >= len(self._sizes) or nbytes != self._sizes[n]:
            expected = self._sizes[n] if n < len(self._sizes) else "none"
            raise RuntimeError(
                f"allocation {n} of the step is of {nbytes} bytes, and was {expected} when it was "
                "planned: a planned step must do the same every time"
            )
        self._next += 1
        return _pointer(self._block.data.ptr + self._offsets[n], nbytes, self._block)


def _pointer(address: int, nbytes: int, owner: Any) -> Any:
    import cupy

    # The device is given because cupy cannot derive it from the address of an empty allocation.
    memory = cupy.cuda.UnownedMemory(address, nbytes, owner, cupy.cuda.Device().id)
    return cupy.cuda.MemoryPointer(memory, 0)


class _Owner:
    """Keeps memory alive while arrays use it, and calls `freed` when the last one is deleted."""

    def __init__(self, memory: Any, freed: Callable[[], None]):
        self._memory = memory
        self._freed = freed

    def __del__(self) -> None:
        self._freed()


def lay_out(sizes: list[int], events: list[int]) -> tuple[list[int], int]:
    """The offset of each allocation, and the number of bytes that all together need.

    events: n when allocation n is made, ~n when it is freed. Each goes to the lowest gap that is
    large enough (first fit; Knuth, "The Art of Computer Programming", volume 1, section 2.5).
    """
    offsets = [0] * len(sizes)
    taken: list[tuple[int, int]] = []  # (begin, end), ascending
    total = 0
    for event in events:
        n = max(event, ~event)
        size = -(-sizes[n] // _ALIGNMENT) * _ALIGNMENT
        if event < 0:
            if size:
                taken.remove((offsets[n], offsets[n] + size))
            continue
        begin, place = 0, 0
        for first, last in taken:
            if first - begin >= size:
                break
            begin, place = last, place + 1
        offsets[n] = begin
        if size:
            taken.insert(place, (begin, begin + size))
        total = max(total, begin + size)
    return offsets, total
