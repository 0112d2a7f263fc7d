"""Times the CUDA kernels beside PyTorch and cuBLASLt, and against the GPU's copy bandwidth.

The figure of a kernel that is bound by memory is the bytes of its contract's TRAFFIC line over its
time, as a fraction of what a plain copy reaches in the same run; that of attention is the floating
point operations of its products over its time. Before each run the cache is emptied. A call that
takes less than 0.2 ms is timed as the replay of a CUDA graph, ours, PyTorch's and cuBLASLt's alike;
the row says which way it was. A figure that cannot be measured reads "not run" and the reason.
Results are written after each row.

    python -m bench.gpu bench --out bench/results    kernels.json and kernels.md in the GPU's folder
    python -m bench.gpu run                          every kernel once on small shapes, untimed
    python -m bench.gpu table FILE                   the table of a recorded kernels.json

With --on-cpu, bench and run use the same kernels compiled for the CPU, which tests this program;
its figures measure no GPU, and their folder is called "dry-run-on-the-cpu".
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from bench import collect, gpu_report
from bench.gpu_case import DTYPES, Case
from bench.gpu_device import Device, Gpu, OnCpu
from bench.gpu_timing import ROUNDS, Contestant, in_turns, ready
from bench.harness import circumstances, described
from byhand import backend

Save = Callable[[dict[str, Any]], Any]


def measure(device: Device, case: Case, copy: float, rounds: int = ROUNDS) -> dict[str, Any]:
    """One row: our kernels, and those of PyTorch and cuBLASLt in the same rounds."""

    def ours() -> Contestant:
        return Contestant(case.on(device.kernels), case.setting)

    def torch() -> Contestant:
        assert case.rival is not None
        return Contestant(case.rival(), by_torch=True)

    def cublaslt() -> Contestant:
        def setting() -> AbstractContextManager[None]:
            return backend.cuda_gemm("cublaslt", device.kernels.name)

        return Contestant(case.on(device.kernels), setting)

    makers: dict[str, Callable[[], Contestant]] = {"ours": ours}
    not_run = {"torch": device.without_torch().removeprefix("not run: ")}
    if not not_run["torch"] and case.rival is not None:
        makers["torch"] = torch
    if case.gemm:
        makers["cublaslt"] = cublaslt
    contestants = {}
    for name, make in makers.items():
        try:
            contestant = make()
            with contestant.setting():
                contestant.run()
            device.synchronize()
            contestants[name] = contestant
        except Exception as error:  # the others are still timed
            not_run[name] = described(error)
    timed, contestants = ready(device, contestants)
    times = in_turns(device, contestants, rounds)
    return gpu_report.row(*_about(case), copy, times, not_run, timed if times else "")


def _about(case: Case) -> tuple[str, tuple[int, ...], str, int, int]:
    return case.name, case.shape, case.dtype, case.bytes, case.flops


def cases(
    device: Device, only: str = "", ops: Sequence[str] = (), dtypes: Sequence[str] = DTYPES
) -> Iterator[Case]:
    sizes = "small" if device.dry else "full"
    found = collect.gpu_cases(device.xp, sizes, device.groups, ops=ops, dtypes=dtypes)
    for case in found:
        if re.search(only, str(case)) and (device.hopper or not case.environment):
            yield case


def bench(
    device: Device,
    cases: Iterable[Case],
    seconds: float,
    rounds: int = ROUNDS,
    save: Save = lambda result: None,
) -> dict[str, Any]:
    """The result of these cases; after `seconds` they are not run. `save` gets the result so far:
    at the beginning without a row, and after each row.
    """
    begin = time.monotonic()
    about = {} if device.dry else circumstances(measured=False)
    result: dict[str, Any] = {"date": "", "commit": "", **about, "format": 1}
    result |= {"gpu": device.facts(), "clocks": {"before": device.clocks()}}
    copy_once, copied = device.copier()
    copy = copied / in_turns(device, {"copy": Contestant(copy_once)}, rounds)["copy"][0] * 1e3
    result |= {"copy_gb_per_s": round(copy / 1e9, 1), "rows": []}
    save(result)
    without = device.without_torch()
    print(f"copy: {copy / 1e9:,.0f} GB/s read and written; PyTorch: {without or 'beside'}")
    for case in cases:
        if time.monotonic() - begin > seconds:
            late = dict.fromkeys(("ours", "torch"), "the time was up")
            row = gpu_report.row(*_about(case), copy, {}, late)
        else:
            row = measure(device, case, copy, rounds)
        result["rows"].append(row)
        result["clocks"]["after"] = device.clocks()
        save(result)
        print(gpu_report.line(row), flush=True)
        device.free()
    return result


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
            command.add_argument("--seconds", type=float, default=420, help="start nothing later")
            ops = {"choices": [*collect.modules()], "metavar": "OP", "default": []}
            command.add_argument("--ops", nargs="+", help="these alone, in this order", **ops)
            command.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    command = commands.add_parser("table", help="print the table of a result")
    command.add_argument("file", type=Path)
    options = parser.parse_args(arguments)

    if options.command == "table":
        result = json.loads(options.file.read_text(encoding="utf-8"))
        gpu_report.check(result)
        print(gpu_report.markdown(result))
        return 0
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
    chosen = cases(device, options.only, options.ops, options.dtypes)
    save = partial(gpu_report.write, under=options.out) if options.out else lambda result: None
    result = bench(device, chosen, options.seconds, 2 if device.dry else ROUNDS, save)
    if options.out:
        print(f"written to {gpu_report.folder(result, options.out)}")
    if device.dry:
        print("a dry run on the CPU: these numbers measure no GPU")
    return 0


if __name__ == "__main__":
    sys.exit(main())
