"""The names of byhand that benchmarks use exist, also in those that no test runs."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(path.relative_to(ROOT) for path in (ROOT / "bench").rglob("*.py"))


def missing(source: str, names: dict[str, object]) -> list[str]:
    """The attributes of modules of the project that do not exist."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = names.get(node.value.id)
            ours = isinstance(module, ModuleType) and module.__name__.split(".")[0] in (
                "byhand",
                "bench",
            )
            if ours and not hasattr(module, node.attr):
                found.append(f"{node.value.id}.{node.attr}")
    return found


@pytest.mark.parametrize("path", FILES, ids=str)
def test_the_names_that_a_benchmark_uses_exist(path: Path):
    name = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    names = vars(importlib.import_module(name))
    assert missing((ROOT / path).read_text("utf-8"), names) == []


def test_a_name_that_does_not_exist_is_found():
    from byhand import roofline

    assert missing("roofline.copy(1) + roofline.dots(2)", {"roofline": roofline}) == [
        "roofline.dots"
    ]
