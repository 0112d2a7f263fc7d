"""Measuring fairly on a noisy machine: contestants take turns, medians are compared.

Absolute times depend on the neighbours' load; the ratio of two medians taken in turns hardly does.
"""

from __future__ import annotations

import json
import math
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import byhand

RESULTS = Path(__file__).parent / "results"


def in_turns(
    contestants: dict[str, Callable[[], Any]], rounds: int = 15, warmup: int = 3
) -> dict[str, float]:
    """Median seconds of each contestant; round by round, each runs twice and the second run counts.

    The first one lets the rival's threads fall asleep: OpenMP's spin for milliseconds after the
    last operation, on a core that the next contestant needs.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for i in range(warmup + rounds):
        for name, run in contestants.items():
            run()
            start = time.perf_counter()
            run()
            if i >= warmup:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def repeats_for(run: Callable[[], Any], seconds: float) -> int:
    """How often ``run`` must be repeated to take about ``seconds``; at least once."""
    fastest = math.inf
    begin = time.perf_counter()
    while time.perf_counter() - begin < 2 * seconds:
        start = time.perf_counter()
        run()
        fastest = min(fastest, time.perf_counter() - start)
    return max(1, round(seconds / fastest))


def processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def circumstances() -> dict[str, Any]:
    """What a figure means nothing without: machine, versions, date, commit."""
    git = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    )
    found = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": git.stdout.strip() or "unknown",
        "processor": processor(),
        **byhand.info(),
    }
    try:
        import torch

        found["torch"] = torch.__version__
    except ImportError:
        pass
    return found


def record(name: str, rows: list[dict[str, Any]]) -> Path:
    """Writes one result file, machine and all."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({**circumstances(), "rows": rows}, indent=1) + "\n")
    return path
