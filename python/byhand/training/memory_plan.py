"""The memory of a step that does the same every time: every array at a place of its own, in one
block. What never runs at the same time may share a block as large as the larger plan.

A step is run once while cupy's allocations are written down, and when each of them is freed. What
never lives at the same time may share memory, so the block is as large as the step's peak and not
as the sum. From then on the n-th allocation of the step is the n-th place in the block: nothing is
allocated any more, and all addresses stay, as a CUDA graph demands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from byhand.backend import Array

_ALIGNMENT = 512  # bytes, as cupy's own pool gives them


class Plan:
    """`record()` one step, then `replay(block)` any number of them, each as a `with` block.

    Attributes:
        nbytes: what the block must have at least; 0 before something was recorded.
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
        """Writes down the allocations of what runs inside, which runs as usual."""
        import cupy

        self._sizes, self._events = [], []
        with cupy.cuda.using_allocator(self._recorded):
            yield
        # What is still alive is a result of the step and keeps its place.
        self._offsets, self.nbytes = lay_out(self._sizes, self._events)
        self._events = []  # and whatever is freed later is no longer of interest

    @contextmanager
    def replay(self, block: Array) -> Iterator[None]:
        """Gives what runs inside the places of the plan in this array of bytes.

        Raises RuntimeError when it does not allocate as the recorded step did.
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

    # No bytes have no address to tell the device from.
    memory = cupy.cuda.UnownedMemory(address, nbytes, owner, cupy.cuda.Device().id)
    return cupy.cuda.MemoryPointer(memory, 0)


class _Owner:
    """Keeps memory while arrays in it live, and tells when the last of them is gone."""

    def __init__(self, memory: Any, freed: Callable[[], None]):
        self._memory = memory
        self._freed = freed

    def __del__(self) -> None:
        self._freed()


def lay_out(sizes: list[int], events: list[int]) -> tuple[list[int], int]:
    """Where each allocation begins, and how many bytes all need.

    events: n where allocation n is made, ~n where it is freed. Each goes to the lowest gap that is
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
