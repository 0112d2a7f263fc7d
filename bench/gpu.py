"""Times the CUDA kernels beside PyTorch and cuBLASLt, and against the GPU's copy bandwidth.

The figure of a kernel that is bound by memory is the bytes of its contract's TRAFFIC line over its
time, as a fraction of what a plain copy reaches in the same run; that of attention is the floating
point operations of its products over its time. Before each run the cache is emptied. A figure that
cannot be measured reads "not run" and the reason.

    python -m bench.gpu bench --out bench/results    kernels.json and kernels.md in the GPU's folder
    python -m bench.gpu run                          every kernel once on small shapes, untimed
    python -m bench.gpu table FILE                   the table of a recorded kernels.json

With --on-cpu, bench and run use the same kernels compiled for the CPU, which tests this program.
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

from bench import collect, gpu_report
from bench.gpu_case import Case
from bench.gpu_device import Device, Gpu, OnCpu
from bench.harness import circumstances, described
from byhand import backend

ROUNDS, WARM_UP = 25, 3


def in_turns(
    device: Device, runs: dict[str, Callable[[], Any]], rounds: int = ROUNDS
) -> dict[str, tuple[float, float]]:
    """(median milliseconds, spread) of each; round by round each runs once."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds + WARM_UP):
        for name, run in runs.items():
            elapsed = device.milliseconds(run)
            if i >= WARM_UP:
                times[name].append(elapsed)
    found = {}
    for name, values in times.items():
        tenths = statistics.quantiles(values, n=10)
        middle = statistics.median(values)
        found[name] = (middle, (tenths[-1] - tenths[0]) / middle)
    return found


def measure(device: Device, case: Case, copy: float, rounds: int = ROUNDS) -> dict[str, Any]:
    """One row: our kernels, and those of PyTorch and cuBLASLt in the same rounds."""
    runs: dict[str, Callable[[], Any]] = {"ours": lambda: case.run(device.kernels)}
    not_run = {"torch": device.without_torch().removeprefix("not run: ")}
    if not not_run["torch"] and case.rival is not None:
        try:
            rival = case.rival()
            rival()
            runs["torch"] = rival
        except Exception as error:
            not_run["torch"] = described(error)
    if case.gemm:

        def by_cublaslt() -> None:
            with backend.cuda_gemm("cublaslt", device.kernels.name):
                case.run(device.kernels)

        try:
            by_cublaslt()
            runs["cublaslt"] = by_cublaslt
        except RuntimeError as error:
            not_run["cublaslt"] = str(error).partition("\n")[0]
    times = in_turns(device, runs, rounds)
    return gpu_report.row(*_about(case), copy, times, not_run)


def _about(case: Case) -> tuple[str, tuple[int, ...], str, int, int]:
    return case.name, case.shape, case.dtype, case.bytes, case.flops


def cases(device: Device, only: str) -> Iterator[Case]:
    sizes = "small" if device.dry else "full"
    found = collect.gpu_cases(device.xp, sizes, device.groups)
    return (case for case in found if re.search(only, str(case)))


def bench(device: Device, only: str, seconds: float, rounds: int = ROUNDS) -> dict[str, Any]:
    """The result of the cases that `only` matches; after `seconds` they are not run."""
    begin = time.monotonic()
    copy_once, copied = device.copier()
    copy = copied / in_turns(device, {"copy": copy_once}, rounds)["copy"][0] * 1e3
    without = device.without_torch()
    print(f"copy: {copy / 1e9:,.0f} GB/s read and written; PyTorch: {without or 'beside'}")
    clocks = {"before": device.clocks()}
    rows = []
    for case in cases(device, only):
        if time.monotonic() - begin > seconds:
            late = dict.fromkeys(("ours", "torch"), "the time was up")
            rows.append(gpu_report.row(*_about(case), copy, {}, late))
        else:
            rows.append(measure(device, case, copy, rounds))
        print(gpu_report.line(rows[-1]), flush=True)
        device.free()
    clocks["after"] = device.clocks()
    about = {} if device.dry else circumstances()
    about = {"date": "", "commit": "", **about, "format": 1, "gpu": device.facts()}
    about |= {"clocks": clocks, "copy_gb_per_s": round(copy / 1e9, 1)}
    return {**about, "rows": rows}


def run(device: Device, only: str) -> int:
    for case in collect.gpu_cases(device.xp, "small"):
        if re.search(only, str(case)):
            case.run(device.kernels)
            device.synchronize()
            device.free()
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
        parser.error("--on-cpu measures no GPU, so its results cannot be written with --out")
    try:
        re.compile(options.only)
    except re.error as error:
        parser.error(f"--only is not a regular expression: {error}")
    try:
        device: Device = OnCpu() if options.on_cpu else Gpu()
    except backend.CudaUnavailable as error:
        print(f"not run: {error}")
        return 1
    if options.command == "run":
        return run(device, options.only)
    result = bench(device, options.only, 60 * options.minutes, 2 if device.dry else ROUNDS)
    if device.dry:
        print("a dry run on the CPU: these numbers measure no GPU")
    elif options.out:
        print(f"written to {gpu_report.write(result, options.out)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
