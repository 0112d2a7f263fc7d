"""Times of calls on a device, in turns, and as replays of CUDA graphs where a call is short."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from bench.gpu_device import Device
from bench.harness import described

ROUNDS, WARM_UP = 25, 3
SHORT = 0.2  # milliseconds: below, a call is timed as a replay of a graph
LAUNCHES, REPLAYS = "launches", "graph replays"


@dataclass(frozen=True)
class Contestant:
    """run: what is timed. setting: is entered before each timing and left after it, outside of what
    is timed. by_torch: PyTorch must capture its graph, because its allocator takes part.
    """

    run: Callable[[], Any]
    setting: Callable[[], AbstractContextManager[Any]] = nullcontext
    by_torch: bool = False


def in_turns(
    device: Device,
    contestants: dict[str, Contestant],
    rounds: int = ROUNDS,
    warm_up: int = WARM_UP,
) -> dict[str, tuple[float, float]]:
    """(median milliseconds, spread) of each; round by round each runs once. The spread is the width
    of the middle eighty percent of the times, as a share of their median.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for i in range(rounds + warm_up):
        for name, contestant in contestants.items():
            with contestant.setting():
                elapsed = device.milliseconds(contestant.run)
            if i >= warm_up:
                times[name].append(elapsed)
    found = {}
    for name, values in times.items():
        tenths = statistics.quantiles(values, n=10)
        middle = statistics.median(values)
        found[name] = (middle, (tenths[-1] - tenths[0]) / middle)
    return found


def ready(device: Device, contestants: dict[str, Contestant]) -> tuple[str, dict[str, Contestant]]:
    """How all contestants are timed, and what is then run: graphs if one of them takes less than
    SHORT. Launching a kernel takes some microseconds, and more from Python.
    """
    quick = in_turns(device, contestants, rounds=3, warm_up=1)
    if not quick or min(median for median, _ in quick.values()) >= SHORT:
        return LAUNCHES, contestants
    graphs = {}
    for name, contestant in contestants.items():
        try:
            with contestant.setting():
                graph = device.captured(contestant.run, contestant.by_torch)
        except Exception as error:  # of one: then all are timed as launches
            return f"{LAUNCHES}, {name} cannot be captured: {described(error)}", contestants
        graphs[name] = replace(contestant, run=graph)
    return REPLAYS, graphs
