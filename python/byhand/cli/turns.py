"""Fair timing on a noisy machine: contestants take turns, and medians are compared.

Absolute times depend on the other load on the machine; the ratio of two medians taken in turns
hardly does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

Taken = TypeVar("Taken")

_LONG = 0.5  # seconds: what happened before a run of this length does not matter


def take_turns(
    contestants: Mapping[str, Callable[[], Taken]],
    rounds: int,
    warm_up: int = 3,
    seconds: float = math.inf,
    rest: float = 0.0,
) -> dict[str, list[Taken]]:
    """Runs the contestants round by round -> what each returned in each of `rounds` rounds, after
    `warm_up` rounds that are not counted.

    With several contestants, each makes an uncounted run before the counted one, because the
    threads of the previous contestant may still be spinning (OpenMP's spin for milliseconds after
    their last work) and the caches hold its data. Runs of half a second or more do without. `rest`
    is a pause in seconds before each round, for threads that spin longer. After `seconds` no round
    is started, provided that one has warmed up and three have been counted.
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
