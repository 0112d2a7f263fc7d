"""What Python costs: of one call of each op, and of a whole training step.

    python -m bench.overhead [calls] [step] [--preset tiny] [--precision float32] [--rounds N]
                             [--threads N] [--record]

`calls` calls every op on arrays so small that their arithmetic takes no time (TINY in bench/ops).
The native call, that is, the binding that checks the representation of each array, and the kernel,
is timed a second time alone, with the same arguments; the rest is the public function's own Python:
checks of shapes, and the allocation of outputs. PyTorch's op stands beside it, without autograd.

`step` runs whole training steps (zero_grad, forward, backward, clipping and AdamW) and reports the
share of their time that is spent outside native kernels: in the layers, the public functions, the
optimizer, allocations and numpy. A timer around every kernel adds up the time inside; its own cost
is measured and subtracted. Steps without timers take turns with those with timers and show whether
the timers disturb. The target for tiny is at most 5 %.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import byhand
from bench import collect
from bench.harness import in_turns, record
from bench.native import Call, Timer, listening, replaced, timer_cost
from byhand.cli import bench
from byhand.models.gpt import PRESETS

CALLS = 2000
TARGET = 0.05  # the most that a step of tiny may spend outside kernels
PHASES = ("zero_grad", "forward", "backward", "update")

# Phase -> (its seconds, those spent in kernels, native calls).
Phases = dict[str, tuple[float, float, int]]


# --- One call -----------------------------------------------------------------------------------


def many(call: Call) -> Call:
    def loop() -> None:
        for _ in range(CALLS):
            call()

    return loop


def calls(rounds: int) -> list[dict[str, Any]]:
    """One row for each kernel: microseconds of the call, of the native call and of PyTorch."""
    rows = []
    print(f"{'call':32}{'us':>8}{'native call':>13}{'PyTorch us':>12}")
    for op in collect.modules().values():
        for case in (case for spec in op.TINY for case in spec.build()):
            natives: list[Call] = []
            with listening(natives):
                case.byhand()
            (native,) = natives
            runs = {"call": many(case.byhand), "native": many(native)}
            # PyTorch has no backward pass without autograd.
            if "torch" in case.rivals and not case.name.endswith("backward"):
                runs["torch"] = many(case.rivals["torch"])
            seconds = in_turns(runs, rounds)
            us = {who: round(1e6 * taken / CALLS, 2) for who, taken in seconds.items()}
            rows.append({"op": case.name, **us})
            rival = f"{us['torch']:12.2f}" if "torch" in us else ""
            print(f"{case.name:32}{us['call']:8.2f}{us['native']:13.2f}{rival}", flush=True)
    median = statistics.median(row["call"] for row in rows)
    print(f"median {median:.2f} us, longest {max(row['call'] for row in rows):.2f} us")
    return rows


# --- A training step ----------------------------------------------------------------------------


def phases_of(preset: str, precision: str) -> dict[str, Callable[[], Any]]:
    """A training step of a preset on random tokens, phase by phase, in their order."""
    size = bench.sizes(preset)
    config = bench.config_of(preset, size)
    model = byhand.GPT(config, seed=0, precision=precision)
    optimizer = byhand.optim.AdamW(model, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
    ids, targets = bench.random_batch(config, size["batch"])
    return {
        "zero_grad": model.zero_grad,
        "forward": lambda: float(model.loss(ids, targets)),
        "backward": model.backward,
        "update": lambda: optimizer.step(clip_norm=1.0),
    }


def timed_step(
    phases: dict[str, Callable[[], Any]], read: Callable[[], tuple[float, int]]
) -> Phases:
    """One step. read: a Timer's, whose kernels the phases call."""
    found = {}
    read()
    for name, run in phases.items():
        start = time.perf_counter()
        run()
        elapsed = time.perf_counter() - start
        found[name] = (elapsed, *read())
    return found


def step(preset: str, precision: str, rounds: int, warm_up: int = 5) -> dict[str, Any]:
    """Medians over the rounds, in milliseconds; `outside` are shares of the time of the step."""
    phases = phases_of(preset, precision)
    in_all, counted = timer_cost()
    timer = Timer()
    plain, watched = [], []
    for turn in range(warm_up + rounds):
        start = time.perf_counter()
        for run in phases.values():
            run()
        alone = time.perf_counter() - start
        with replaced(timer.wrap):
            found = timed_step(phases, timer.read)
        if turn >= warm_up:
            plain.append(alone)
            watched.append(found)
    if not any(calls for _, _, calls in watched[0].values()):
        raise RuntimeError("no native kernel was called through backend.cpu()")

    def of(
        step: dict[str, tuple[float, float, int]], names: tuple[str, ...]
    ) -> tuple[float, float]:
        """(seconds of these phases, those of them outside kernels), without the timer's cost."""
        elapsed, native, calls = (sum(step[name][i] for name in names) for i in range(3))
        elapsed -= calls * in_all
        return elapsed, elapsed - (native - calls * counted)

    def medians(names: tuple[str, ...]) -> dict[str, float]:
        pairs = [of(step, names) for step in watched]
        return {
            "ms": round(1e3 * statistics.median(elapsed for elapsed, _ in pairs), 4),
            "outside_ms": round(1e3 * statistics.median(outside for _, outside in pairs), 4),
        }

    shares = [outside / elapsed for elapsed, outside in (of(step, PHASES) for step in watched)]
    low, _, high = statistics.quantiles(shares, n=4)
    return {
        "case": f"{preset} {precision}",
        "native_calls": sum(calls for _, _, calls in watched[0].values()),
        "timer_us_per_call": round(1e6 * in_all, 3),
        "ms_without_timers": round(1e3 * statistics.median(plain), 4),
        **medians(PHASES),
        "outside": round(statistics.median(shares), 4),
        "outside_quartiles": [round(low, 4), round(high, 4)],
        "phases": {name: medians((name,)) for name in PHASES},
    }


def print_step(row: dict[str, Any]) -> None:
    print(f"\n{'step of ' + row['case']:32}{'ms':>9}{'outside kernels, ms':>22}")
    for name, phase in row["phases"].items():
        print(f"{name:32}{phase['ms']:9.3f}{phase['outside_ms']:22.3f}")
    print(f"{'step':32}{row['ms']:9.3f}{row['outside_ms']:22.3f}")
    low, high = row["outside_quartiles"]
    print(
        f"outside native kernels: {row['outside']:.2%} of a step (quartiles {low:.2%} and "
        f"{high:.2%}), {row['native_calls']} native calls; target for tiny: {TARGET:.0%}"
    )
    print(
        f"a step without timers: {row['ms_without_timers']:.3f} ms; the timer's cost, "
        f"{row['timer_us_per_call']:.2f} us a call, is subtracted above"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="calls|step", help="(default: both)")
    parser.add_argument("--preset", default="tiny", choices=PRESETS)
    parser.add_argument("--precision", default="float32", choices=("float32", "bf16"))
    parser.add_argument("--rounds", type=int, help="(default: 9 for calls, 60 for step)")
    parser.add_argument("--threads", type=int, default=byhand.get_num_threads())
    parser.add_argument("--record", action="store_true", help="keep them in bench/results")
    options = parser.parse_args()
    parts = options.parts or ["calls", "step"]
    if unknown := set(parts) - {"calls", "step"}:
        parser.error(f"there is no part {', '.join(sorted(unknown))}: choose from calls, step")
    byhand.set_num_threads(options.threads)
    print(f"{byhand.info()['cpu_backend']}, {options.threads} threads")
    if "calls" in parts:
        rows = calls(options.rounds or 9)
        if options.record:
            print("wrote", record("overhead", rows, key="op"))
    if "step" in parts:
        row = step(options.preset, options.precision, options.rounds or 60)
        print_step(row)
        if options.record:
            print("wrote", record("step_overhead", [row], key="case"))


if __name__ == "__main__":
    main()
