"""What the benches share: medians taken in turns, and results that say where they come from."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import byhand
from byhand import roofline
from byhand.cli.turns import take_turns

RESULTS = Path(__file__).parent / "results"  # see home_of
SAME = ("processor", "cpu_backend", "threads", "torch")  # what rows of one file have in common
# Keys of result files written before 2026-12, and what they are called now.
RENAMED = {"roof": "roofline", "percent_of_roof": "percent_of_roofline", "door": "call"}


def in_turns(
    contestants: dict[str, Callable[[], Any]],
    rounds: int = 15,
    warm_up: int = 3,
    seconds: float = math.inf,
    rest: float = 0.0,
) -> dict[str, float]:
    """Median seconds of each contestant; they take turns as in `byhand bench`."""

    def timed(run: Callable[[], Any]) -> Callable[[], float]:
        def once() -> float:
            start = time.perf_counter()
            run()
            return time.perf_counter() - start

        return once

    runs = {name: timed(run) for name, run in contestants.items()}
    taken = take_turns(runs, rounds, warm_up, seconds, rest)
    return {name: statistics.median(values) for name, values in taken.items()}


def repeats_for(run: Callable[[], Any], seconds: float) -> int:
    """How often ``run`` must be repeated to take about ``seconds``; at least once."""
    fastest = math.inf
    begin = time.perf_counter()
    while time.perf_counter() - begin < 2 * seconds:
        start = time.perf_counter()
        run()
        fastest = min(fastest, time.perf_counter() - start)
    return max(1, round(seconds / fastest))


def described(error: Exception) -> str:
    """One line for a table: what kind of error, and its first line."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


# --- Results ------------------------------------------------------------------------------------


def processor() -> str:
    """Its name, and its family where there is such a number: cloud machines of one name may differ
    in it, and with it by a factor of two in speed.
    """
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    except OSError:
        lines = []
    facts = {name.strip(): value.strip() for name, _, value in lines}
    name = facts.get("model name") or platform.processor() or platform.machine()
    return f"{name} (family {facts['cpu family']})" if "cpu family" in facts else name


def folder_of(processor: str) -> Path:
    """Where the results of a kind of processor are kept."""
    return RESULTS / re.sub(r"[^a-z0-9]+", "-", processor.lower()).strip("-")


def home_of(about: dict[str, Any]) -> Path:
    """The folder for results of these circumstances: that of the processor, or one beside it for a
    back end that the environment chose in place of the processor's best one.
    """
    chosen = any(os.environ.get(name) for name in ("BYHAND_CPU", "BYHAND_CPU_FEATURES"))
    name = about["cpu_backend"].removeprefix("cpu_")
    return folder_of(f"{about['processor']} {name}" if chosen else about["processor"])


def write_whole(path: Path, text: str) -> None:
    """Writes a file such that it holds the old text or the new one, whenever the program ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def commit() -> str:
    """The short hash of the checkout's commit; outside one what the variable COMMIT says, or
    "unknown".
    """
    elsewhere = os.environ.get("COMMIT") or "unknown"
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:  # no git
        return elsewhere
    return done.stdout.strip() or elsewhere


def circumstances(measured: bool = True) -> dict[str, Any]:
    """What a figure needs to be understood: machine, versions, date, commit, and, `measured` in
    about a second, the machine's roofline.
    """
    found = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "processor": processor(),
        **byhand.info(),
    }
    if measured:
        found["roofline"] = asdict(roofline.measure())
    try:
        import torch

        found["torch"] = torch.__version__
    except (ImportError, OSError):  # OSError: a library of it cannot be loaded
        pass
    return found


def load(path: Path) -> dict[str, Any]:
    """One result file, its keys called as they are today."""

    def renamed(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {RENAMED.get(key, key): value for key, value in pairs}

    found: dict[str, Any] = json.loads(path.read_text(), object_pairs_hook=renamed)
    return found


def record(name: str, rows: list[dict[str, Any]], key: str) -> Path:
    """Writes one result file, machine and all.

    Rows of the same machine and PyTorch that were not measured this time stay; a row is known by
    its `key`, and says when and of which commit it was taken.
    """
    about = circumstances()
    path = home_of(about) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    taken = {row[key]: {**row, "date": about["date"], "commit": about["commit"]} for row in rows}
    old = load(path) if path.exists() else {"rows": []}
    if all(old.get(fact) == about.get(fact) for fact in SAME):
        taken = {row[key]: row for row in old["rows"] if key in row} | taken
    path.write_text(json.dumps({**about, "rows": list(taken.values())}, indent=1) + "\n")
    return path
