"""Whole training steps, byhand and PyTorch in turns: forward, backward, clip, AdamW.

    python -m bench.models.train_step [tiny guide baby gpt2] [--precision float32|bf16|both]
                                      [--compile] [--rounds N] [--threads N] [--record]

The steps and the way of measuring are those of `byhand bench`. The roofline, multiply-adds in
registers, takes its turn like the contestants, and each row says which share of it byhand reaches.
With --compile the versions that torch.compile makes take part too, which needs a C++ compiler and
minutes.
"""

from __future__ import annotations

import argparse
import time

import byhand
from bench.harness import record
from byhand import roofline
from byhand.cli import bench
from byhand.models.gpt import PRESETS

SECONDS = 40.0  # for a preset, about; of slow steps at least three are counted


def limit_of(probe: roofline.Probe) -> bench.Step:
    """A probe of the roofline as a contestant: a step of one phase."""

    def step() -> tuple[float, float, float]:
        start = time.perf_counter()
        probe.run()
        return time.perf_counter() - start, 0.0, 0.0

    return step


def compare(
    name: str, precisions: tuple[str, ...], rounds: int, compiled: bool
) -> list[dict[str, object]]:
    """One row for each precision, beside PyTorch in the same precision."""
    probes = {"float32": roofline.multiply_adds(0.05), "bf16": roofline.bf16_products(0.05)}
    size = bench.sizes(name)
    config = bench.config_of(name, size)
    steps = bench.contestants(config, size["batch"], precisions, torch=True, compiled=compiled)
    limits = {f"roofline {p}": limit_of(probe) for p, probe in probes.items() if probe}
    medians = bench.measure(limits | steps, rounds, SECONDS)
    results = {who: bench.summary(medians[who], config, size["batch"]) for who in steps}

    def percent(precision: str) -> float | None:
        probe = probes[precision]
        if probe is None:
            return None
        limit = probe.amount / medians[f"roofline {precision}"]["step"] / 1e9
        return round(100 * results[f"byhand {precision}"]["gflops"] / limit, 1)

    return [
        {
            "case": f"{name} {precision}" + (" compiled" if compiled else ""),
            "preset": name,
            "precision": precision,
            **size,
            "times_torch_speed": round(bench.times_torch(f"byhand {precision}", results) or 0, 3),
            "percent_of_roofline": percent(precision),
            "results": {
                who: {key: round(value, 2) for key, value in result.items()}
                for who, result in results.items()
                if precision in who
            },
        }
        for precision in precisions
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("presets", nargs="*", default=["tiny", "guide"], metavar="PRESET")
    parser.add_argument("--precision", choices=("float32", "bf16", "both"), default="both")
    parser.add_argument("--compile", action="store_true", help="torch.compile takes part too")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=byhand.get_num_threads())
    parser.add_argument("--record", action="store_true", help="keep them in bench/results")
    options = parser.parse_args()
    if unknown := set(options.presets) - PRESETS.keys():
        parser.error(f"no such preset: {', '.join(unknown)}; choose from {', '.join(PRESETS)}")
    precisions = ("float32", "bf16") if options.precision == "both" else (options.precision,)
    byhand.set_num_threads(options.threads)
    bench.share_threads()

    rows = []
    for name in options.presets:
        rows += (found := compare(name, precisions, options.rounds, options.compile))
        for row in found:
            for who, r in row["results"].items():
                phases = "  ".join(f"{p} {r[f'{p}_ms']:8.2f} ms" for p in (*bench.PHASES, "step"))
                print(f"{name:6} {who:25} {phases}  {r['gflops']:6.1f} GFLOP/s")
            share = row["percent_of_roofline"]
            of = f", {share:.0f} % of the roofline" if share is not None else ""
            print(f"{row['case']}: {row['times_torch_speed']:.2f} times as fast{of}", flush=True)
    if options.record:
        print("wrote", record("train_step", rows, key="case"))


if __name__ == "__main__":
    main()
