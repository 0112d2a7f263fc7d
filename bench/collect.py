"""Collects the cases: the folder bench/ops is the registry, one module an op."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bench import gpu_case
from bench.cpu_case import Spec

FOLDER = Path(__file__).parent / "ops"


@functools.cache
def modules() -> dict[str, Any]:
    """The modules of bench/ops by the name of their op, in alphabetical order."""
    names = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")
    return {name: importlib.import_module(f"bench.ops.{name}") for name in names}


def cpu_specs(ops: Iterable[str] | None = None) -> list[Spec]:
    """The CPU cases of these ops, of all by default."""
    return [spec for op in (ops or modules()) for spec in modules()[op].CPU]


def gpu_cases(
    xp: Any,
    sizes: str,
    groups: int = 4,
    maker: Any = gpu_case.Maker,
    ops: Iterable[str] = (),
    dtypes: Iterable[str] = gpu_case.DTYPES,
) -> Iterator[gpu_case.Case]:
    """The calls of these ops, of every op by default, on arrays of `xp`; sizes: "small" or "full",
    see gpu_case.Calls.
    """
    for dtype in dtypes:
        m = maker(xp, dtype, groups)
        for op in ops or modules():
            calls: gpu_case.Calls = modules()[op].GPU
            if dtype in calls.dtypes:
                for size in getattr(calls, sizes):
                    yield from calls.make(m, *size)
