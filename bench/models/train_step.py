"""Whole training steps, byhand and PyTorch in turns: forward, backward, clip, AdamW.

    python -m bench.models.train_step [tiny guide baby gpt2] [--precision float32|bf16|both]
                                      [--compile] [--rounds N] [--threads N] [--record]

The steps and the way of measuring are those of `byhand bench`. With --compile the versions that
torch.compile makes take part too, which needs a C++ compiler and minutes.
"""

from __future__ import annotations

import argparse

import byhand
from bench.harness import record
from byhand.cli import bench
from byhand.models.gpt import PRESETS


def compare(
    name: str, precisions: tuple[str, ...], rounds: int, compiled: bool
) -> list[dict[str, object]]:
    """One row for each precision, beside PyTorch in the same precision."""
    size = bench.sizes(name)
    config = bench.config_of(name, size)
    steps = bench.contestants(config, size["batch"], precisions, torch=True, compiled=compiled)
    medians = bench.measure(steps, rounds)
    results = {who: bench.summary(p, config, size["batch"]) for who, p in medians.items()}
    return [
        {
            "case": f"{name} {precision}" + (" compiled" if compiled else ""),
            "preset": name,
            "precision": precision,
            **size,
            "times_torch_speed": round(bench.times_torch(f"byhand {precision}", results) or 0, 3),
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
            print(f"{row['case']}: {row['times_torch_speed']:.2f} times as fast", flush=True)
    if options.record:
        print("wrote", record("train_step", rows, key="case"))


if __name__ == "__main__":
    main()
