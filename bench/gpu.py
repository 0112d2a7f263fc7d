"""Times the CUDA kernels against this GPU's own copy bandwidth, PyTorch and cuBLASLt on it.

The figure of a kernel that is bound by memory is the bytes of its contract's TRAFFIC line over its
time, as a fraction of what a plain copy reaches in the same run; that of attention the floating
point operations of its products over its time. Before each run the cache is emptied. What cannot be
measured says "not run" and why.

    python bench/gpu.py bench --out bench/results    kernels.json and kernels.md in the GPU's folder
    python bench/gpu.py run                          every kernel once on small shapes, untimed
    python bench/gpu.py table FILE                   the table of a recorded kernels.json

With --on-cpu both run the same kernels compiled for the CPU: that tests this file, not a GPU.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gpu_cases
import gpu_report
from byhand import backend
from gpu_case import Case
from gpu_home import Gpu, Home, OnCpu
from harness import circumstances, described

ROUNDS, WARM_UP = 25, 3


def in_turns(
    home: Home, runs: dict[str, Callable[[], Any]], rounds: int = ROUNDS
) -> dict[str, tuple[float, float]]:
    """(median milliseconds, spread) of each; round by round each runs once."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds + WARM_UP):
        for name, run in runs.items():
            elapsed = home.milliseconds(run)
            if i >= WARM_UP:
                times[name].append(elapsed)
    found = {}
    for name, values in times.items():
        tenths = statistics.quantiles(values, n=10)
        middle = statistics.median(values)
        found[name] = (middle, (tenths[-1] - tenths[0]) / middle)
    return found


def measure(home: Home, case: Case, copy: float, rounds: int = ROUNDS) -> dict[str, Any]:
    """One row: our kernels, and PyTorch's and cuBLASLt's beside them in the same rounds."""
    runs: dict[str, Callable[[], Any]] = {"ours": lambda: case.run(home.kernels)}
    not_run = {"torch": home.without_torch().removeprefix("not run: ")}
    if not not_run["torch"] and case.rival is not None:
        try:
            rival = case.rival()
            rival()
            runs["torch"] = rival
        except Exception as error:
            not_run["torch"] = described(error)
    if case.gemm:

        def by_cublaslt() -> None:
            with backend.cuda_gemm("cublaslt", home.kernels.name):
                case.run(home.kernels)

        try:
            by_cublaslt()
            runs["cublaslt"] = by_cublaslt
        except RuntimeError as error:
            not_run["cublaslt"] = str(error).partition("\n")[0]
    times = in_turns(home, runs, rounds)
    return gpu_report.row(*_about(case), copy, times, not_run)


def _about(case: Case) -> tuple[str, tuple[int, ...], str, int, int]:
    return case.name, case.shape, case.dtype, case.bytes, case.flops


def cases(home: Home, only: str) -> Iterator[Case]:
    found = gpu_cases.small(home.xp) if home.dry else gpu_cases.full(home.xp, home.groups)
    return (case for case in found if re.search(only, str(case)))


def bench(home: Home, only: str, seconds: float, rounds: int = ROUNDS) -> dict[str, Any]:
    """The result of the cases that `only` matches; those that come too late say so."""
    begin = time.monotonic()
    copy_once, copied = home.copier()
    copy = copied / in_turns(home, {"copy": copy_once}, rounds)["copy"][0] * 1e3
    without = home.without_torch()
    print(f"copy: {copy / 1e9:,.0f} GB/s read and written; PyTorch: {without or 'beside'}")
    clocks = {"before": home.clocks()}
    rows = []
    for case in cases(home, only):
        if time.monotonic() - begin > seconds:
            late = dict.fromkeys(("ours", "torch"), "the time was up")
            rows.append(gpu_report.row(*_about(case), copy, {}, late))
        else:
            rows.append(measure(home, case, copy, rounds))
        print(gpu_report.line(rows[-1]), flush=True)
        home.free()
    clocks["after"] = home.clocks()
    about = {} if home.dry else circumstances()
    about = {"date": "", "commit": "", **about, "format": 1, "gpu": home.facts(), "clocks": clocks}
    return {**about, "copy_gb_per_s": round(copy / 1e9, 1), "rows": rows}


def run(home: Home, only: str) -> int:
    for case in gpu_cases.small(home.xp):
        if re.search(only, str(case)):
            case.run(home.kernels)
            home.synchronize()
            home.free()
    print("every kernel ran")
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in (("bench", "time the kernels"), ("run", "run each once, untimed")):
        command = commands.add_parser(name, help=about)
        command.add_argument("--on-cpu", action="store_true", help="a dry run of this program")
        command.add_argument("--only", default="", metavar="REGEX", help="cases that match")
        if name == "bench":
            command.add_argument("--out", type=Path, help="write the results under this folder")
            command.add_argument("--minutes", type=float, default=7, help="start nothing later")
    command = commands.add_parser("table", help="print the table of a result")
    command.add_argument("file", type=Path)
    options = parser.parse_args(arguments)

    if options.command == "table":
        result = json.loads(options.file.read_text(encoding="utf-8"))
        gpu_report.check(result)
        print(gpu_report.markdown(result))
        return 0
    if options.on_cpu and getattr(options, "out", None):
        parser.error("--on-cpu measures no GPU: there is nothing to write with --out")
    try:
        re.compile(options.only)
    except re.error as error:
        parser.error(f"--only is no regular expression: {error}")
    try:
        home: Home = OnCpu() if options.on_cpu else Gpu()
    except backend.CudaUnavailable as error:
        print(f"not run: {error}")
        return 1
    if options.command == "run":
        return run(home, options.only)
    result = bench(home, options.only, 60 * options.minutes, 2 if home.dry else ROUNDS)
    if home.dry:
        print("a dry run on the CPU: none of these numbers is a measurement")
    elif options.out:
        print(f"written to {gpu_report.write(result, options.out)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
