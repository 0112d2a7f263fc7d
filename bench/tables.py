"""The tables of docs/benchmarks.md, generated from bench/results."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.harness import RESULTS, load
from byhand.models.gpt import PRESETS

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
NOTHING = "Not recorded yet."

Result = dict[str, Any]


def results(folder: Path) -> dict[str, Result]:
    """Every recorded file of one machine, by name."""
    return {path.stem: load(path) for path in sorted(folder.glob("*.json"))}


def table(head: list[str], rows: list[list[str]]) -> str:
    align = ["---"] + ["--:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, align, *rows))


def number(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def microseconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value / 1000:,.1f} ms" if value >= 1000 else f"{value:.1f} us"


def origin(result: Result) -> str:
    """Machine, versions, and the days and commits of the rows."""
    days = sorted({row["date"][:10] for row in result["rows"]})
    commits = sorted({row["commit"] for row in result["rows"]})
    return (
        f"{result['processor']}, {result['threads']} threads, `{result['cpu_backend']}`, "
        f"{result['platform']}, {result['compiler']}, Python {result['python']}, "
        f"numpy {result['numpy']}, PyTorch {result['torch']}; {days[0]}"
        + (f" to {days[-1]}" if len(days) > 1 else "")
        + f", commit {', '.join(commits)}."
    )


def roofline(found: dict[str, Result]) -> str:
    """The range over the recorded runs, each of which is the best of several short ones."""
    if not found:
        return NOTHING
    limits = [result["roofline"] for result in found.values()]

    def best(name: str) -> str:
        values = [r[name] for r in limits if r[name] is not None]
        low, high = min(values, default=0), max(values, default=0)
        return f"{low:,.0f} to {high:,.0f}" if high > 1.05 * low else f"{high:,.0f}"

    return table(
        ["limit", "measured"],
        [
            ["float32 multiply-adds", f"{best('gflops')} GFLOP/s"],
            ["bfloat16 products", f"{best('bf16_gflops')} GFLOP/s"],
            *([f"memory, {name}", f"{best(name)} GB/s"] for name in ("read", "update")),
            *([f"memory, {name}", f"{best(name)} GB/s"] for name in ("copy", "triad")),
        ],
    )


def train_step(found: dict[str, Result]) -> str:
    if "train_step" not in found:
        return NOTHING
    rows = []
    for row in found["train_step"]["rows"]:
        ours = row["results"][f"byhand {row['precision']}"]
        for who, theirs in row["results"].items():
            if not who.startswith("PyTorch"):
                continue
            rows.append(
                [
                    f"`{row['preset']}` ({PRESETS[row['preset']].about})"
                    if row["preset"] != "gpt2"
                    else "GPT-2 124M",
                    f"{row['batch']} x {row['context']}",
                    row["precision"] + (", compiled" if who.endswith("compiled") else ""),
                    f"{number(ours['step_ms'])} ms",
                    f"{number(theirs['step_ms'])} ms",
                    f"**{theirs['step_ms'] / ours['step_ms']:.2f}**",
                    number(ours["tokens_per_second"], 0),
                    number(ours["gflops"], 0),
                ]
            )
    head = ["model", "batch x context", "precision", "byhand", "PyTorch", "times as fast"]
    return table([*head, "tokens/s", "GFLOP/s"], rows) + "\n\n" + origin(found["train_step"])


def instruction_sets(kind: str) -> str:
    """Every recorded machine whose back end for AVX2 was measured too: rows of AVX2 beside those of
    its best back end. `kind` is the name of the files.
    """
    parts = []
    for folder in sorted(RESULTS.glob("*-avx2")):
        smaller, best = folder / f"{kind}.json", RESULTS / folder.name.removesuffix("-avx2")
        if not smaller.exists() or not (best / f"{kind}.json").exists():
            continue
        both = [load(smaller), load(best / f"{kind}.json")]
        key = {"train_step": "case", "ops": "op"}[kind]
        rows = {row[key]: row for row in both[1]["rows"]}
        pairs = [(row, rows[row[key]]) for row in both[0]["rows"] if row[key] in rows]
        cells = train_step_cells if kind == "train_step" else op_cells
        head = ["byhand", "times PyTorch", "rate", "of the roofline"]
        parts += [
            table(
                [
                    {"train_step": "training step", "ops": "op"}[kind],
                    *(f"AVX2: {head[0]}", *head[1:]),
                    *(f"AVX-512: {head[0]}", *head[1:]),
                ],
                [[row[key], *cells(row), *cells(other)] for row, other in pairs],
            ),
            *(origin(result) for result in both),
        ]
    return "\n\n".join(parts) or NOTHING


def percent(row: dict[str, Any]) -> str:
    share = row.get("percent_of_roofline")
    return "" if share is None else f"{share:.0f} %"


def train_step_cells(row: dict[str, Any]) -> list[str]:
    ours = row["results"][f"byhand {row['precision']}"]
    return [
        f"{number(ours['step_ms'])} ms",
        number(row["times_torch_speed"], 2),
        f"{ours['gflops']:,.0f} GFLOP/s",
        percent(row),
    ]


def op_cells(row: dict[str, Any]) -> list[str]:
    return [
        microseconds(row["us"]["byhand"]),
        number(row["times_torch_speed"], 2),
        f"{row['rate']:,.0f} {row['unit']}",
        percent(row),
    ]


def memory(found: dict[str, Result]) -> str:
    if "footprint" not in found:
        return NOTHING
    rows = [
        [
            f"`{row['preset']}`",
            row["precision"],
            f"{number(row['byhand']['peak_mb'], 0)} MB",
            f"{number(row['torch']['peak_mb'], 0)} MB",
            number(row["share_of_torch"], 2),
        ]
        for row in found["footprint"]["rows"]
        if "preset" in row
    ]
    head = ["model", "precision", "byhand", "PyTorch", "byhand / PyTorch"]
    return table(head, rows) + "\n\n" + origin(found["footprint"])


def footprint(found: dict[str, Result]) -> str:
    if "footprint" not in found:
        return NOTHING
    rows = [
        [
            f"`{row['case']}`",
            f"{number(row['import_ms'], 0)} ms",
            f"{number(row['installed_mb'])} MB",
        ]
        for row in found["footprint"]["rows"]
        if "import_ms" in row
    ]
    return table(["", "time", "installed package"], rows)


def ops(found: dict[str, Result], limits: tuple[str, ...]) -> str:
    if "ops" not in found:
        return NOTHING
    rows = []
    for row in found["ops"]["rows"]:
        if row["limit"] not in limits:
            continue
        us = row["us"]
        percent = row["percent_of_roofline"]
        rows.append(
            [
                row["op"],
                microseconds(us["byhand"]),
                microseconds(us["torch"]),
                microseconds(us.get("numpy")),
                number(row["times_torch_speed"], 2),
                f"{row['rate']:,.0f} {row['unit']}",
                "" if percent is None else f"{percent:.0f} %",
            ]
        )
    head = ["op", "byhand", "PyTorch", "numpy", "times as fast", "byhand's rate", "of the roofline"]
    return table(head, rows) + "\n\n" + origin(found["ops"])


def overhead(found: dict[str, Result]) -> str:
    if "overhead" not in found:
        return NOTHING
    rows = [
        [row["op"], *(number(row.get(who), 2) for who in ("call", "native", "torch"))]
        for row in found["overhead"]["rows"]
    ]
    head = ["call", "byhand, us", "of which native", "PyTorch, us"]
    return table(head, rows) + "\n\n" + origin(found["overhead"])


def step_overhead(found: dict[str, Result]) -> str:
    if "step_overhead" not in found:
        return NOTHING
    rows = [
        [
            row["case"],
            f"{number(row['ms'], 2)} ms",
            f"{number(row['outside_ms'], 2)} ms",
            f"{100 * row['outside']:.1f} %",
            str(row["native_calls"]),
        ]
        for row in found["step_overhead"]["rows"]
    ]
    head = ["model", "step", "outside kernels", "share", "native calls"]
    return table(head, rows) + "\n\n" + origin(found["step_overhead"])


TABLES: dict[str, Callable[[dict[str, Result]], str]] = {
    "roofline": roofline,
    "training steps": train_step,
    "AVX2 steps": lambda found: instruction_sets("train_step"),
    "AVX2 ops": lambda found: instruction_sets("ops"),
    "memory": memory,
    "footprint": footprint,
    "arithmetic": lambda found: ops(found, ("arithmetic",)),
    "memory-bound": lambda found: ops(found, ("memory",)),
    "in the caches": lambda found: ops(found, ("caches",)),
    "overhead": overhead,
    "step overhead": step_overhead,
}


def filled(page: str, found: dict[str, Result]) -> str:
    """The page with every table generated anew; KeyError for a mark that names no table."""

    def fill(mark: re.Match[str]) -> str:
        name = mark.group(1)
        text = TABLES[name](found)
        return f"<!-- table: {name} -->\n\n{text}\n\n<!-- end of table -->"

    pattern = r"<!-- table: ([^>]*?) -->\n.*?<!-- end of table -->"
    return re.sub(pattern, fill, page, flags=re.DOTALL)


def marks(page: str) -> Iterator[str]:
    """The tables that a page asks for."""
    for mark in re.finditer(r"<!-- table: ([^>]*?) -->", page):
        yield mark.group(1)
