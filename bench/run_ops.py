"""Times every op, forward and backward apart, by byhand, PyTorch and numpy in turns.

    python -m bench.run_ops [OP ...] [--only TEXT] [--rounds N] [--threads N] [--record]

The cases are those of bench/ops. Each row counts the floating-point operations of a compute-bound
op, or the bytes that a memory-bound op must move (the TRAFFIC line of its contract), and compares
the rate with the roofline, which takes its turn like the contestants: multiply-adds in registers,
or a stream of the same kind over arrays that no cache holds. A memory-bound op whose arrays fit
into the caches is not compared with it.
"""

from __future__ import annotations

import argparse
import gc

import torch

import byhand
from bench import collect
from bench.cpu_case import Case, Run
from bench.harness import in_turns, record, repeats_for
from byhand import backend, roofline
from byhand._host import pool_trim

SECONDS = 1.0  # for a case, about
ROOFLINE = "roofline"  # its name among the contestants


class Probes:
    """The probes that are timed beside the ops."""

    def __init__(self) -> None:
        # Long enough for the threads of the previous contestant to have gone to sleep.
        self.multiply_adds = roofline.multiply_adds(seconds=0.02)
        self.bf16_products = roofline.bf16_products(seconds=0.02)
        size = roofline.outside_caches()
        self.streams = {name: stream(size) for name, stream in roofline.STREAMS.items()}
        self.cache = backend.last_level_cache()

    def limit_of(self, case: Case) -> roofline.Probe | None:
        """What limits a case; None when it runs in the caches or the machine has no such unit."""
        if case.flops:
            return self.bf16_products if case.bf16 else self.multiply_adds
        # Four times the caches: of arrays only just larger, a part always stays in them.
        return self.streams[case.stream] if case.bytes > 4 * self.cache else None


def many(run: Run, repeats: int) -> Run:
    def loop() -> None:
        for _ in range(repeats):
            run()

    return loop


def measure(case: Case, probes: Probes, rounds: int) -> dict[str, object]:
    repeats = repeats_for(case.byhand, 0.01)
    contestants = {"byhand": case.byhand, **case.rivals}
    limit = probes.limit_of(case)
    runs = {ROOFLINE: limit.run} if limit is not None else {}
    runs |= {who: many(run, repeats) for who, run in contestants.items()}
    # numpy comes last: its matrix products leave threads behind that spin for a tenth of a second.
    rest = 0.2 if case.flops and "numpy" in runs else 0.0
    seconds = in_turns(runs, rounds, seconds=SECONDS, rest=rest)
    rate = (case.flops or case.bytes) * repeats / seconds["byhand"]
    percent = limit and round(100 * rate / (limit.amount / seconds[ROOFLINE]), 1)
    return {
        "op": case.name,
        "us": {who: round(1e6 * seconds[who] / repeats, 2) for who in contestants},
        "times_torch_speed": round(seconds["torch"] / seconds["byhand"], 3),
        "rate": round(rate / 1e9, 1),
        "unit": "GFLOP/s" if case.flops else "GB/s",
        "bytes": case.bytes,
        "percent_of_roofline": percent,
        "limit": "arithmetic" if case.flops else "memory" if limit else "caches",
    }


def line(row: dict) -> str:
    us = row["us"]
    numpy = f"{us['numpy']:12.1f}" if "numpy" in us else f"{'':12}"
    percent = row["percent_of_roofline"]
    text = f"{percent:8.0f} %" if percent is not None else f"{'in cache':>10}"
    if percent is None and row["limit"] == "arithmetic":
        text = f"{'':10}"
    more = ", ".join(
        f"{who} {time:.1f}" for who, time in us.items() if who not in ("byhand", "torch", "numpy")
    )
    return (
        f"{row['op']:38}{us['byhand']:12.1f}{us['torch']:12.1f}{numpy}"
        f"{row['times_torch_speed']:8.2f}{row['rate']:9.1f} {row['unit']:8}{text}"
        + (f"   ({more})" if more else "")
    )


def main() -> None:
    ops = list(collect.modules())
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ops", nargs="*", metavar="OP", help=f"of {', '.join(ops)} (default: all)")
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose name contains it")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=byhand.get_num_threads())
    parser.add_argument("--record", action="store_true", help="keep them in bench/results")
    parser.add_argument("--list", action="store_true", help="print the names of the rows and stop")
    options = parser.parse_args()
    if unknown := set(options.ops) - set(ops):
        parser.error(f"no such op: {', '.join(sorted(unknown))}; choose from {', '.join(ops)}")
    specs = [
        spec
        for spec in collect.cpu_specs(options.ops)
        if any(options.only in name for name in spec.names)
    ]
    if options.list:
        print("\n".join(name for spec in specs for name in spec.names))
        return
    byhand.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)

    probes, rows = Probes(), []
    print(
        f"{'op':38}{'byhand us':>12}{'torch us':>12}{'numpy us':>12}{'ratio':>8}{'rate':>18}"
        f"{'roofline':>10}"
    )
    for spec in specs:
        for case in spec.build():
            rows.append(measure(case, probes, options.rounds))
            print(line(rows[-1]), flush=True)
        del case  # and with it the arrays
        gc.collect()
        pool_trim()
    if options.record:
        print("wrote", record("ops", rows, key="op"))


if __name__ == "__main__":
    main()
