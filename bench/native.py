"""Watches the native kernels of the CPU back end while Python code calls them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from byhand import backend

Call = Callable[[], Any]
Kernel = Callable[..., None]

_clock = time.perf_counter


@contextmanager
def replaced(wrap: Callable[[Kernel], Kernel]) -> Iterator[None]:
    """Puts ``wrap(kernel)`` in the place of every kernel of the CPU back end in use."""
    kernels = backend.cpu()
    natives = {name: getattr(kernels, name) for name in kernels.available}
    for name, native in natives.items():
        setattr(kernels, name, wrap(native))
    try:
        yield
    finally:
        for name, native in natives.items():
            setattr(kernels, name, native)


@contextmanager
def listening(calls: list[Call]) -> Iterator[None]:
    """Appends every native call that is made meanwhile, to be repeated with its arguments."""

    def noting(native: Kernel) -> Kernel:
        def call(*arguments: Any) -> None:
            calls.append(lambda: native(*arguments))
            native(*arguments)

        return call

    with replaced(noting):
        yield


@dataclass
class Timer:
    """Adds up the seconds spent in the kernels that `wrap` wraps, and counts the calls."""

    seconds: float = 0.0
    calls: int = 0
    wrap: Callable[[Kernel], Kernel] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        def wrap(native: Kernel) -> Kernel:
            def call(*arguments: Any) -> None:
                start = _clock()
                native(*arguments)
                self.seconds += _clock() - start
                self.calls += 1

            return call

        self.wrap = wrap

    def read(self) -> tuple[float, int]:
        """(seconds, calls) since the last read."""
        found = self.seconds, self.calls
        self.seconds, self.calls = 0.0, 0
        return found


def timer_cost(calls: int = 20_000, rounds: int = 9) -> tuple[float, float]:
    """What the timer adds to a call: (seconds in all, those of them that it counts as the
    kernel's). The least of several rounds, of a function that does nothing.
    """

    def nothing(*arguments: Any) -> None:
        pass

    timer = Timer()
    watched = timer.wrap(nothing)
    arguments = (None,) * 8

    def loop(function: Kernel) -> float:
        start = _clock()
        for _ in range(calls):
            function(*arguments)
        return _clock() - start

    def empty_loop() -> float:
        start = _clock()
        for _ in range(calls):
            pass
        return _clock() - start

    alone, all_of_it, counted = [], [], []
    for _ in range(rounds):
        alone.append(loop(nothing) - empty_loop())
        all_of_it.append(loop(watched) - empty_loop())
        counted.append(timer.read()[0])
    least = min(alone)
    return (min(all_of_it) - least) / calls, max(0.0, min(counted) - least) / calls
