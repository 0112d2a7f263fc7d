"""The results of bench.gpu: the fields they must have, and the table made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.harness import folder_of, write_whole
from bench.tables import number, table

NUMBER = (int, float)
# Every field of a file and of a row, and its type.
FILE: dict[str, Any] = {
    "format": int,
    "date": str,
    "commit": str,
    "gpu": dict,
    "clocks": dict,
    "copy_gb_per_s": NUMBER,
    "rows": list,
}
ROW: dict[str, Any] = {
    "kernel": str,
    "shape": list,
    "dtype": str,
    "ms": (*NUMBER, str),
    "spread": (*NUMBER, type(None)),
    "gb_per_s": (*NUMBER, type(None)),
    "of_copy": (*NUMBER, type(None)),
    "tflop_per_s": (*NUMBER, type(None)),
    "torch_ms": (*NUMBER, str),
    "times_torch_speed": (*NUMBER, type(None)),
    "cublaslt_ms": (*NUMBER, str, type(None)),
    "timed": str,
}


class Malformed(ValueError):
    """A result file with a field missing or of the wrong type; the message names it."""


def check(result: dict[str, Any]) -> None:
    """Raises Malformed, naming the field, unless the result has all fields."""
    _fields("the file", result, FILE)
    if not isinstance(result["gpu"].get("name"), str):
        raise Malformed("the file: gpu has no name")
    for i, row in enumerate(result["rows"]):
        _fields(f"row {i}", row, ROW)
        for field in ("ms", "torch_ms", "cublaslt_ms"):
            if isinstance(row[field], str) and not row[field].startswith("not run: "):
                raise Malformed(f"row {i}: {field} says neither a time nor why it was not run")


def _fields(where: str, found: dict[str, Any], fields: dict[str, Any]) -> None:
    for name, kind in fields.items():
        if name not in found:
            raise Malformed(f"{where} has no {name}")
        if not isinstance(found[name], kind) or isinstance(found[name], bool):
            raise Malformed(f"{where}: {name} is {found[name]!r}")


def row(
    kernel: str,
    shape: tuple[int, ...],
    dtype: str,
    size: int,
    flops: int,
    copy: float,
    times: dict[str, tuple[float, float]],
    not_run: dict[str, str],
    timed: str = "",
) -> dict[str, Any]:
    """One row of a result.

    size: bytes moved. flops: 0 where memory is the limit. copy: bytes per second of the copy in
    this run. times: contestant -> (median milliseconds, spread); not_run: contestant -> why it did
    not run; cuBLASLt is in neither where there is nothing to multiply. timed: which way, see
    bench.gpu_timing; empty where nothing ran. The spread is that of gpu_timing.in_turns.
    """
    ours, torch, library = times.get("ours"), times.get("torch"), times.get("cublaslt")
    bandwidth = size / ours[0] * 1e3 if ours else None
    without = f"not run: {not_run['cublaslt']}" if "cublaslt" in not_run else None
    return {
        "kernel": kernel,
        "shape": list(shape),
        "dtype": dtype,
        "ms": round(ours[0], 4) if ours else f"not run: {not_run['ours']}",
        "spread": round(ours[1], 3) if ours else None,
        "gb_per_s": round(bandwidth / 1e9, 1) if bandwidth else None,
        "of_copy": round(bandwidth / copy, 4) if bandwidth else None,
        "tflop_per_s": round(flops / ours[0] / 1e9, 1) if ours and flops else None,
        "torch_ms": round(torch[0], 4) if torch else f"not run: {not_run['torch']}",
        "times_torch_speed": round(torch[0] / ours[0], 2) if ours and torch else None,
        "cublaslt_ms": round(library[0], 4) if library else without,
        "timed": timed,
    }


def cells(entry: dict[str, Any]) -> list[str]:
    def time(value: Any) -> str:
        return value if isinstance(value, str) else f"{value:.3f} ms"

    def share(value: float | None) -> str:
        return "" if value is None else f"{value:.0%}"

    return [
        f"`{entry['kernel']}`",
        " x ".join(map(str, entry["shape"])),
        entry["dtype"],
        time(entry["ms"]),
        share(entry["spread"]),
        number(entry["gb_per_s"], 0),
        share(entry["of_copy"]),
        number(entry["tflop_per_s"], 1),
        time(entry["torch_ms"]),
        number(entry["times_torch_speed"], 2),
        "" if entry["cublaslt_ms"] is None else time(entry["cublaslt_ms"]),
        entry["timed"],
    ]


def line(entry: dict[str, Any]) -> str:
    """The same for the terminal."""
    widths = (27, 17, 9, 10, 5, 6, 5, 6, 10, 5, 10, 13)
    padded = zip(cells(entry), widths, strict=True)
    return "  ".join(cell.strip("`").ljust(width) for cell, width in padded).rstrip()


HEAD = ["kernel", "shape", "dtype", "time", "spread", "GB/s", "of copy", "TFLOP/s", "PyTorch"]


def markdown(result: dict[str, Any]) -> str:
    """The table, and the GPU, versions and clocks that belong to its numbers."""
    gpu = result["gpu"]
    about = [
        gpu["name"],
        f"copy {result['copy_gb_per_s']:,.0f} GB/s read and written",
        *(
            f"{what} {gpu[key]}"
            for what, key in (("driver", "driver"), ("cupy", "cupy"))
            if key in gpu
        ),
        *([f"PyTorch {result['torch']}"] if "torch" in result else []),
        f"{result['date'][:10]}, commit {result['commit']}",
    ]
    clocks = "; ".join(
        f"{when}: " + ", ".join(f"{name} {value}" for name, value in found.items())
        for when, found in result["clocks"].items()
        if found
    )
    rows = table(
        [*HEAD, "times as fast", "cuBLASLt", "timed as"], [cells(entry) for entry in result["rows"]]
    )
    return "\n\n".join([", ".join(about) + ".", rows, *([f"Clocks {clocks}."] if clocks else [])])


def folder(result: dict[str, Any], under: Path) -> Path:
    """The GPU's folder."""
    return under / folder_of(result["gpu"]["name"]).name


def write(result: dict[str, Any], under: Path) -> None:
    """Writes kernels.json and kernels.md to the GPU's folder. Raises Malformed."""
    check(result)
    to = folder(result, under)
    write_whole(to / "kernels.json", json.dumps(result, indent=1) + "\n")
    write_whole(to / "kernels.md", markdown(result) + "\n")
