"""Draws docs/bench.svg and fills the tables of docs/benchmarks.md from one machine's results.

python -m bench.plot [FOLDER]       a folder of bench/results; this machine's by default
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib

from bench.harness import RESULTS, folder_of, processor
from bench.tables import PAGE, Result, filled, results

PICTURE = PAGE.with_name("bench.svg")
COLOURS = {"float32": "#31688e", "bf16": "#e08214"}
STYLE = {
    "svg.fonttype": "none",  # text stays text: small, and searchable
    "svg.hashsalt": "byhand",  # the same results give the same file
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def bars(axes: Any, groups: dict[str, dict[str, float]], title: str, digits: int) -> None:
    """A pair of bars for each preset, one for each precision; the line at 1 is PyTorch."""
    names = list(groups)
    width = 0.38
    for i, (precision, colour) in enumerate(COLOURS.items()):
        at = [k + (i - 0.5) * width for k, name in enumerate(names) if precision in groups[name]]
        heights = [groups[name][precision] for name in names if precision in groups[name]]
        axes.bar(at, heights, width * 0.92, color=colour, label=precision)
        for x, height in zip(at, heights, strict=True):
            axes.text(x, height, f"{height:.{digits}f}", ha="center", va="bottom", fontsize=8)
    axes.axhline(1, color="#666666", linewidth=0.8, linestyle="--")
    axes.set_xticks(range(len(names)), names)
    axes.set_title(title, loc="left")


def family(op: str) -> str:
    """The op that a row belongs to: `linear 768x128 to 384 forward` to linear."""
    words = op.split()
    return f"{words[0]} bf16" if "bf16" in words else words[0]


def rooflines(axes: Any, rows: list[dict[str, Any]]) -> None:
    """A dot for each size and direction: the share of the roofline that the op reaches."""
    rows = [row for row in rows if row["percent_of_roofline"] is not None]
    families = list(dict.fromkeys(family(row["op"]) for row in rows))
    limits = {family(row["op"]): row["limit"] for row in rows}
    families.sort(key=lambda name: limits[name], reverse=True)
    for row in rows:
        colour = COLOURS["bf16" if "bf16" in row["op"].split() else "float32"]
        fill = "none" if row["op"].endswith("backward") else colour
        axes.plot(
            row["percent_of_roofline"],
            families.index(family(row["op"])),
            "o",
            markersize=5,
            markeredgecolor=colour,
            markerfacecolor=fill,
        )
    axes.axvline(100, color="#666666", linewidth=0.8, linestyle="--")
    axes.set_xlim(0, None)
    marked = {"memory": "memory", "arithmetic": "FMA"}
    axes.set_yticks(range(len(families)), [f"{name} ({marked[limits[name]]})" for name in families])
    axes.grid(axis="y", linewidth=0.3)
    axes.set_title("percent of the roofline (open: backward)", loc="left")


def draw(found: dict[str, Result], path: Path) -> None:
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 6.4), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.1), squeeze=True)
        left.remove()
        grid = left.get_subplotspec().subgridspec(2, 1)
        speed, memory = (figure.add_subplot(grid[i]) for i in range(2))
        steps: dict[str, dict[str, float]] = {}
        for row in found.get("train_step", {"rows": []})["rows"]:
            if "compiled" not in row["case"]:
                steps.setdefault(row["preset"], {})[row["precision"]] = row["times_torch_speed"]
        bars(speed, steps, "training step: times as fast as PyTorch", 1)
        speed.legend(frameon=False, loc="upper right", ncols=2, fontsize=8)
        speed.margins(y=0.2)
        shares: dict[str, dict[str, float]] = {}
        for row in found.get("footprint", {"rows": []})["rows"]:
            if "preset" in row:
                shares.setdefault(row["preset"], {})[row["precision"]] = row["share_of_torch"]
        bars(memory, shares, "its peak memory, as a share of PyTorch's", 2)
        rooflines(right, found.get("ops", {"rows": []})["rows"])
        about = next(iter(found.values()))
        figure.supxlabel(
            f"{about['processor']}, {about['threads']} threads, PyTorch {about['torch']}",
            fontsize=8,
        )
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", default=folder_of(processor()).name)
    options = parser.parse_args()
    found = results(RESULTS / options.folder)
    if not found:
        kept = ", ".join(sorted(p.name for p in RESULTS.iterdir() if p.is_dir()))
        parser.error(f"no results in {options.folder}; there are results in: {kept}")
    draw(found, PICTURE)
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")
    print("wrote", PICTURE, "and the tables of", PAGE)


if __name__ == "__main__":
    main()
