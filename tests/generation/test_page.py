"""docs/generation.md: its examples run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from byhand.cli.main import main
from tests.training import small

PAGE = Path(__file__).parents[2] / "docs" / "generation.md"


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--out", "runs/first", "--steps", "2", *small.SIZES]) == 0
    scope: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL):
        exec(compile(code, "generation.md", "exec"), scope)
    assert len(scope["session"].ids) == 3  # type: ignore[attr-defined]
