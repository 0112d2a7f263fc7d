"""Import time, size on disk, and peak memory while training, beside PyTorch and numpy.

    python -m bench.footprint [tiny guide baby gpt2] [--rounds N] [--record]

Every figure comes from a fresh process; otherwise memory that the allocator of one contestant keeps
would be counted for the next one. Memory is the process's peak of resident memory over three
training steps, interpreter and libraries included, beside its peak right after the import.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
from pathlib import Path

from byhand.models.gpt import PRESETS

MB = 1e6
STEPS = 3


def peak_memory() -> int:
    """In bytes. From /proc where there is one, because getrusage starts with the parent's peak."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def child(who: str, name: str, precision: str) -> None:
    """The measurement in the fresh process: prints one line of JSON."""
    from byhand.cli import bench

    size = bench.sizes(name)
    if who == "byhand":
        import byhand  # noqa: F401

        imported = peak_memory()
        step = bench.byhand_step(bench.config_of(name, size), size["batch"], precision)
    else:
        import torch  # noqa: F401

        imported = peak_memory()
        from byhand.cli.bench_torch import torch_step

        step = torch_step(bench.config_of(name, size), size["batch"], precision)
    for _ in range(STEPS):
        step()
    print(json.dumps({"imported_mb": imported / MB, "peak_mb": peak_memory() / MB}))


def memory(who: str, name: str, precision: str) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.footprint", "--child", who, name, precision]
    root = Path(__file__).parents[1]
    out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout
    return {key: round(value, 1) for key, value in json.loads(out).items()}


def import_seconds(module: str, rounds: int) -> float:
    """The median over fresh interpreters, whose own start is not counted."""
    code = (
        "import time; start = time.perf_counter(); "
        f"import {module}; print(time.perf_counter() - start)"
    )
    times = []
    for turn in range(rounds + 1):
        out = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        if turn:  # the first one reads the files from the disk
            times.append(float(out.stdout))
    return statistics.median(times)


def installed_bytes(module: str) -> int:
    """The size of all files of the installed package, without cached bytecode."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    files = Path(spec.origin).parent.rglob("*")
    return sum(f.stat().st_size for f in files if f.is_file() and "__pycache__" not in f.parts)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
        return
    from bench.harness import record

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("presets", nargs="*", default=["tiny"], metavar="PRESET")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--record", action="store_true", help="keep them in bench/results")
    options = parser.parse_args()
    if unknown := set(options.presets) - PRESETS.keys():
        parser.error(f"no such preset: {', '.join(unknown)}; choose from {', '.join(PRESETS)}")

    rows: list[dict[str, object]] = []
    for module in ("byhand", "numpy", "torch"):
        seconds, size = import_seconds(module, options.rounds), installed_bytes(module)
        rows.append(
            {
                "case": f"import {module}",
                "import_ms": round(seconds * 1e3, 1),
                "installed_mb": round(size / MB, 1),
            }
        )
        print(f"import {module:8} {seconds * 1e3:8.0f} ms   installed {size / MB:8.1f} MB")
    for name in options.presets:
        for precision in ("float32", "bf16"):
            found = {who: memory(who, name, precision) for who in ("byhand", "torch")}
            ratio = found["byhand"]["peak_mb"] / found["torch"]["peak_mb"]
            rows.append(
                {
                    "case": f"memory {name} {precision}",
                    "preset": name,
                    "precision": precision,
                    **found,
                    "share_of_torch": round(ratio, 3),
                }
            )
            text = "   ".join(
                f"{who} {m['peak_mb']:8.1f} MB (imported {m['imported_mb']:6.1f})"
                for who, m in found.items()
            )
            print(f"peak {name:6} {precision:8} {text}   {ratio:.2f} of PyTorch's", flush=True)
    if options.record:
        print("wrote", record("footprint", rows, key="case"))


if __name__ == "__main__":
    main()
