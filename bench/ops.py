"""Every op, forward and backward apart, by byhand, PyTorch and numpy in turns, and the roof too.

    python bench/ops.py [GROUP ...] [--only TEXT] [--rounds N] [--threads N] [--record]

Each row counts the floating-point operations of a compute-bound op, or the bytes that a
memory-bound op must move (the TRAFFIC line of its contract). The roof takes its turn like the
others: multiply-adds in registers, or a stream of the same kind over arrays that no cache holds. A
memory-bound op whose arrays fit the caches has no roof here.
"""

from __future__ import annotations

import argparse
import gc

import torch

import byhand
import cases_compute
import cases_memory
from byhand import backend, roof
from byhand._host import pool_trim
from cases import Case, Run, Spec
from harness import in_turns, record, repeats_for

GROUPS: dict[str, list[Spec]] = cases_memory.GROUPS | cases_compute.GROUPS
SECONDS = 1.0  # for a case, about
ROOF = "roof"


class Roofs:
    """The probes that are timed beside the ops."""

    def __init__(self) -> None:
        # Long enough for the threads of the contestant before to have fallen asleep.
        self.multiply_adds = roof.multiply_adds(seconds=0.02)
        self.bf16_dots = roof.bf16_dots(seconds=0.02)
        size = roof.outside_caches()
        self.streams = {name: stream(size) for name, stream in roof.STREAMS.items()}
        self.cache = backend.last_level_cache()

    def of(self, case: Case) -> roof.Probe | None:
        """What limits a case; None when it runs in the caches or the machine has no such unit."""
        if case.flops:
            return self.bf16_dots if case.bf16 else self.multiply_adds
        # Four times: of arrays that are just larger than the caches a part is always there.
        return self.streams[case.stream] if case.bytes > 4 * self.cache else None


def many(run: Run, repeats: int) -> Run:
    def loop() -> None:
        for _ in range(repeats):
            run()

    return loop


def measure(case: Case, roofs: Roofs, rounds: int) -> dict[str, object]:
    repeats = repeats_for(case.byhand, 0.01)
    contestants = {"byhand": case.byhand, **case.rivals}
    limit = roofs.of(case)
    runs = {ROOF: limit.run} if limit is not None else {}
    runs |= {who: many(run, repeats) for who, run in contestants.items()}
    # numpy comes last: its matrix products leave threads behind that spin for a tenth of a second.
    rest = 0.2 if case.flops and "numpy" in runs else 0.0
    seconds = in_turns(runs, rounds, seconds=SECONDS, rest=rest)
    amount = case.flops or case.bytes
    rate = amount * repeats / seconds["byhand"]
    return {
        "op": case.name,
        "us": {who: round(1e6 * seconds[who] / repeats, 2) for who in contestants},
        "times_torch_speed": round(seconds["torch"] / seconds["byhand"], 3),
        "rate": round(rate / 1e9, 1),
        "unit": "GFLOP/s" if case.flops else "GB/s",
        "bytes": case.bytes,
        "percent_of_roof": limit and round(100 * rate / (limit.amount / seconds[ROOF]), 1),
        "limit": "arithmetic" if case.flops else "memory" if limit else "caches",
    }


def line(row: dict) -> str:
    us = row["us"]
    numpy = f"{us['numpy']:12.1f}" if "numpy" in us else f"{'':12}"
    percent = row["percent_of_roof"]
    text = f"{percent:6.0f} %" if percent is not None else f"{'in cache':>8}"
    if percent is None and row["limit"] == "arithmetic":
        text = f"{'':8}"
    more = ", ".join(
        f"{who} {time:.1f}" for who, time in us.items() if who not in ("byhand", "torch", "numpy")
    )
    return (
        f"{row['op']:38}{us['byhand']:12.1f}{us['torch']:12.1f}{numpy}"
        f"{row['times_torch_speed']:8.2f}{row['rate']:9.1f} {row['unit']:8}{text}"
        + (f"   ({more})" if more else "")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("groups", nargs="*", default=list(GROUPS), metavar="|".join(GROUPS))
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose name contains it")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=byhand.get_num_threads())
    parser.add_argument("--record", action="store_true", help="keep them in bench/results")
    options = parser.parse_args()
    if unknown := set(options.groups) - GROUPS.keys():
        parser.error(f"no such group: {', '.join(unknown)}; choose from {', '.join(GROUPS)}")
    byhand.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)

    roofs, rows = Roofs(), []
    print(
        f"{'op':38}{'byhand us':>12}{'torch us':>12}{'numpy us':>12}{'ratio':>8}{'rate':>18}"
        f"{'of roof':>8}"
    )
    for group in options.groups:
        for spec in GROUPS[group]:
            if not any(options.only in name for name in spec.names):
                continue
            for case in spec.build():
                rows.append(measure(case, roofs, options.rounds))
                print(line(rows[-1]), flush=True)
            del case
            gc.collect()
            pool_trim()
    if options.record:
        print("wrote", record("ops", rows, key="op"))


if __name__ == "__main__":
    main()
