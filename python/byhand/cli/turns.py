"""Measuring fairly on a noisy machine: contestants take turns, and medians are compared.

Absolute times depend on the neighbours' load; the ratio of two medians taken in turns hardly does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

Taken = TypeVar("Taken")

_LONG = 0.5  # seconds: a run of this length does not notice how it began


def take_turns(
    contestants: Mapping[str, Callable[[], Taken]],
    rounds: int,
    warm_up: int = 3,
    seconds: float = math.inf,
    rest: float = 0.0,
) -> dict[str, list[Taken]]:
    """What each contestant returned in each of `rounds` rounds, after `warm_up` that do not count.

    Where there are several, a run that does not count goes before each one that does: the threads
    of the contestant before are still awake then (OpenMP's spin for milliseconds after their last
    work), and the caches hold its data. Long runs need none. `rest` is slept before each round, for
    threads that spin longer. After `seconds` there is no new round, once one has
    warmed up and three have counted.
    """
    taken: dict[str, list[Taken]] = {name: [] for name in contestants}
    short = dict.fromkeys(contestants, len(contestants) > 1)
    begin, turn = time.perf_counter(), 0
    while turn < warm_up + rounds:
        if rest:
            time.sleep(rest)
        for name, run in contestants.items():
            if short[name]:
                start = time.perf_counter()
                run()
                short[name] = time.perf_counter() - start < _LONG
            taken[name].append(run())
        turn += 1
        if time.perf_counter() - begin > seconds:
            warm_up = min(warm_up, turn)
            rounds = min(rounds, max(3, turn - warm_up))
    return {name: values[warm_up:] for name, values in taken.items()}
