"""docs/tokenizers.md: its example runs, and its names and commands exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from byhand import text
from byhand.cli.parser import parse
from byhand.text import pipeline

PAGE = (Path(__file__).parents[1] / "docs" / "tokenizers.md").read_text(encoding="utf-8")
COMMANDS = [
    part.strip()
    for block in re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    for line in block.splitlines()
    for part in line.partition(" #")[0].split("|")
    if part.strip().startswith("byhand ")
]


def test_the_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(compile(code, "tokenizers.md", "exec"), {})
    assert "Return a list of strings." in capsys.readouterr().out
    assert (tmp_path / "my" / "tokenizer.json").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_are_ones_that_byhand_takes(command: str):
    assert parse(shlex.split(command)[1:]).command in ("tokenizer", "train")


def test_the_names_exist():
    tables = re.findall(r"`(text|tokenizer)\.(\w+)", PAGE)
    assert len(tables) > 12
    for owner, name in tables:
        if (owner, name) != ("tokenizer", "json"):
            assert hasattr(text if owner == "text" else pipeline.PipelineTokenizer, name), name
