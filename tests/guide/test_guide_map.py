"""docs/guide_map.md: its tests and commands exist, and no demo or planted bug is missing."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

from byhand import registry
from byhand.cli.parser import parse
from tests.guide.test_planted_bugs import PLANTED

ROOT = Path(__file__).parents[2]
LINES = {
    line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[1:-1]]
    for line in (ROOT / "docs" / "guide_map.md").read_text(encoding="utf-8").splitlines()
    if re.match(r"\| [A-E]\d\d \|", line)
}
ROWS = [f"C{n:02}" for n in (*range(1, 10), *range(26, 32))] + [f"D{n:02}" for n in range(1, 23)]
ROWS += ["E05", "E07", "E11", "E12", "E13", "E14", "E16", "E17", "E18", "E19"]
COMMANDS = [
    command
    for _, _, commands, _ in LINES.values()
    for command in re.findall(r"`byhand ([^`]*)`", commands)
]


def named_in(row: str) -> list[str]:
    return re.findall(r"`(tests/[^`]*)`", LINES[row][3])


def functions_in(path: Path) -> set[str]:
    """The functions of a file, those of a class as Class::name."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        inner = node.body if isinstance(node, ast.ClassDef) else []
        found |= {f"{node.name}::{f.name}" for f in inner if isinstance(f, ast.FunctionDef)}
        found |= {node.name} if isinstance(node, ast.FunctionDef) else set()
    return found


def test_every_row_has_a_line():
    assert list(LINES) == ROWS
    assert all(len(cells) == 4 for cells in LINES.values())


@pytest.mark.parametrize("row", ROWS)
def test_the_tests_of_a_row_exist_and_one_has_a_planted_bug(row: str):
    named = named_in(row)
    for test in named:
        path, _, name = test.partition("::")
        assert name in functions_in(ROOT / path), test
    planted = [case.path for case in PLANTED if case.row == row]
    assert set(planted) <= set(named)
    assert planted


def test_every_test_of_this_folder_is_in_the_row_of_its_name():
    for path in sorted(Path(__file__).parent.glob("test_[a-e]_*.py")):
        for name in functions_in(path):
            if name.startswith("test_"):
                row = name.split("_")[1].upper()
                assert f"tests/guide/{path.name}::{name}" in named_in(row)


def test_every_demo_is_in_its_rows():
    for name in registry.kinds("demos"):
        for row in registry.find("demos", name).Demo.rows:
            assert f"`byhand demo {name}`" in LINES[row][2]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_are_ones_that_byhand_takes(command: str):
    args = parse(shlex.split(command))
    if args.command == "demo":
        assert registry.find("demos", args.name)
