"""docs/library.md: its examples run, its names exist, and no public name is missing from it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

import byhand
from byhand.cli.main import main
from tests.training import small

PAGE = (Path(__file__).parents[1] / "docs" / "library.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
# `name`, `folder.name` and either with arguments, in the tables and in the text.
NAMES = {
    name.removeprefix("byhand.")
    for name in re.findall(
        r"`((?:\w+\.)?\w+)(?:\([^`]*\))?`", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
    )
}
FOLDERS = ("data", "generation", "nn", "optim", "runs", "tasks", "text", "training")


def public(folder: str) -> list[str]:
    return [f"{folder}.{name}" for name in importlib.import_module(f"byhand.{folder}").__all__]


def test_the_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """In one session from top to bottom, after the command that the page names."""
    monkeypatch.chdir(tmp_path)
    assert "byhand train --out runs/first" in PAGE
    assert main(["train", "--out", "runs/first", "--steps", "2", *small.SIZES]) == 0
    capsys.readouterr()
    scope: dict[str, object] = {}
    for code in EXAMPLES:
        if "import torch" in code and importlib.util.find_spec("torch") is None:
            continue
        exec(compile(code, "library.md", "exec"), scope)
    out = capsys.readouterr().out
    assert out.startswith("The ")
    assert "'loss': 4." in out, "the loss of a model that has learned nothing"
    assert float(re.findall(r"'accuracy': ([\d.]+)", out)[0]) > 0.9
    assert "tolerance" in out
    assert "memory of a training step: " in out
    longer = ["train", "--resume", "--out", "runs/library", "--steps", "21"]
    assert main(longer) == 0, "a run made by the library is one that the command continues"


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_public_name_of_a_folder_is_on_the_page(folder: str):
    assert set(public(folder)) <= NAMES


def test_every_name_of_the_package_is_on_the_page():
    used = {name.partition(".")[0] for name in NAMES} | set(re.findall(r"byhand\.(\w+)", PAGE))
    assert set(byhand.__all__) <= used


def test_every_name_on_the_page_exists():
    for name in NAMES:
        folder, _, inner = name.partition(".")
        if inner and folder in byhand.__all__:
            assert hasattr(getattr(byhand, folder), inner), name
