"""Compares training steps of two installed copies of byhand, such as before and after a change.

    python -m bench.models.compare_steps OLD_PYTHON NEW_PYTHON [--preset tiny] [--pairs 30]
        [--steps 3] [--precision float32] [--threads N] [--old-path DIR] [--new-path DIR] [--json]

OLD_PYTHON and NEW_PYTHON are interpreters, each with its copy of byhand; --old-path and --new-path
are put before what they have installed (for a checkout with built modules: its folder python/). Two
long-lived processes take turns: a pair is a few steps of one and then of the other, and the side
that begins alternates. Other load on the machine disturbs both sides of a pair alike, so the ratio
new / old of a pair varies less than the times do. The result is the median ratio, with a 95 %
confidence interval by the bootstrap: the median of pairs drawn with replacement, 10,000 times
(Efron and Tibshirani, "An introduction to the bootstrap", 1993, section 13.3).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from byhand.cli import bench
from byhand.models.gpt import PRESETS

WORKER = Path(__file__).with_name("step_worker.py")
SAMPLES = 10_000
# Only arguments of GPTConfig that every version of byhand has.
CONFIG = ("vocabulary_size", "context_size", "embedding_dim", "num_heads", "num_layers")
MUST_AGREE = {"cpu_backend": "instruction set", "threads": "number of threads"}

Steps = Callable[[int], list[float]]  # runs that many steps -> their seconds


class Failed(RuntimeError):
    """A side that cannot be compared; the message names it and says why."""


class Side:
    """A process that runs training steps in another interpreter."""

    def __init__(self, name: str, python: str, path: Path | None, settings: dict[str, Any]):
        self.name = name
        self.python = python
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        if path is not None:
            if not (path / "byhand").is_dir():
                raise Failed(f"--{name}-path {path} has no folder byhand")
            environment["PYTHONPATH"] = str(path.resolve())
        try:
            self._process = subprocess.Popen(
                [python, str(WORKER), json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
        except OSError as error:
            raise Failed(f"the {name} interpreter {python} cannot be run: {error}") from None
        self.facts = self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            raise Failed(f"the {self.name} side, {self.python}, ended with exit status {status}")
        return json.loads(line)

    def steps(self, count: int) -> list[float]:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then there is no answer
            self._process.stdin.write(f"{count}\n")
            self._process.stdin.flush()
        found: list[float] = self._answer()
        return found

    def close(self) -> None:
        """Ends the process."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def sides(options: argparse.Namespace, settings: dict[str, Any]) -> Iterator[tuple[Side, Side]]:
    """Both processes, ready; Failed unless they run the same instruction set and threads."""
    with contextlib.ExitStack() as stack:
        started = []
        for name in ("old", "new"):
            python, path = getattr(options, name), getattr(options, f"{name}_path")
            started.append(Side(name, python, path, settings))
            stack.callback(started[-1].close)
        old, new = started
        for fact, what in MUST_AGREE.items():
            if old.facts[fact] != new.facts[fact]:
                raise Failed(
                    f"the two sides differ in the {what}: old {old.facts[fact]}, "
                    f"new {new.facts[fact]}"
                )
        yield old, new


def in_pairs(old: Steps, new: Steps, pairs: int, steps: int) -> list[tuple[float, float]]:
    """(old, new) median seconds of a step in each pair; the side that begins alternates."""
    found = []
    for pair in range(pairs):
        order = (old, new) if pair % 2 == 0 else (new, old)
        first, second = (statistics.median(side(steps)) for side in order)
        found.append((first, second) if pair % 2 == 0 else (second, first))
    return found


def interval(ratios: list[float], samples: int = SAMPLES) -> tuple[float, float]:
    """The 95 % confidence interval of the median, by the percentile bootstrap."""
    values = np.asarray(ratios)
    drawn = np.random.default_rng(0).integers(len(values), size=(samples, len(values)))
    low, high = np.quantile(np.median(values[drawn], axis=1), (0.025, 0.975))
    return float(low), float(high)


def summary(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    ratios = [new / old for old, new in pairs]
    return {
        "pairs": len(pairs),
        "old_ms": round(1e3 * statistics.median(old for old, _ in pairs), 3),
        "new_ms": round(1e3 * statistics.median(new for _, new in pairs), 3),
        "ratio": round(statistics.median(ratios), 4),
        "interval": [round(bound, 4) for bound in interval(ratios)],
    }


def verdict(low: float, high: float) -> str:
    if high < 1:
        return "new is faster"
    return "new is slower" if low > 1 else "no difference is shown"


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    size = bench.sizes(options.preset)
    config = bench.config_of(options.preset, size)
    config = {name: getattr(config, name) for name in CONFIG}
    common = {"precision": options.precision, "threads": options.threads}
    return {"config": config, "batch": size["batch"], **common}


def report(row: dict[str, Any]) -> str:
    low, high = row["interval"]
    lines = [
        f"{name}: byhand {row[name]['version']}, {row[name]['file']}" for name in ("old", "new")
    ]
    lines += [
        f"{row['preset']} in {row['precision']}: {row['pairs']} pairs of {row['steps']} steps, "
        f"{row['cpu_backend']}, {row['threads']} threads",
        f"a step: old {row['old_ms']:.2f} ms, new {row['new_ms']:.2f} ms",
        f"new / old: {row['ratio']:.3f}, 95 % confidence interval {low:.3f} to {high:.3f}: "
        f"{verdict(low, high)}",
    ]
    losses = [row[name]["loss"] for name in ("old", "new")]
    if losses[0] != losses[1]:
        lines.append(f"the first losses differ: old {losses[0]:.6g}, new {losses[1]:.6g}")
    return "\n".join(lines)


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, not {text!r}")
    return int(text)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("old", metavar="OLD_PYTHON", help="interpreter with the old copy")
    parser.add_argument("new", metavar="NEW_PYTHON", help="interpreter with the new copy")
    parser.add_argument("--preset", default="tiny", choices=PRESETS)
    parser.add_argument("--pairs", type=positive, default=30)
    parser.add_argument("--steps", type=positive, default=3, help="of each turn (default: 3)")
    parser.add_argument("--precision", default="float32", choices=("float32", "bf16"))
    parser.add_argument("--threads", type=positive, help="(default: what byhand chooses)")
    parser.add_argument("--old-path", type=Path, metavar="DIR", help="PYTHONPATH of the old side")
    parser.add_argument("--new-path", type=Path, metavar="DIR", help="PYTHONPATH of the new side")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead")
    options = parser.parse_args(arguments)
    try:
        with sides(options, settings_of(options)) as (old, new):
            pairs = in_pairs(old.steps, new.steps, options.pairs, options.steps)
    except Failed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    row = {
        "preset": options.preset,
        "precision": options.precision,
        "steps": options.steps,
        **{fact: old.facts[fact] for fact in MUST_AGREE},
        "old": old.facts,
        "new": new.facts,
        **summary(pairs),
    }
    print(json.dumps(row) if options.json else report(row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
