"""docs/transformers.md: its example runs, its commands and options exist."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

import byhand
from byhand.cli.parser import parse

PAGE = (Path(__file__).parents[1] / "docs" / "transformers.md").read_text(encoding="utf-8")
COMMANDS = [
    line.partition(" #")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    for line in block.splitlines()
]


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(compile(code, "transformers.md", "exec"), {})
    assert capsys.readouterr().out.startswith("(4, 32) ")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_are_ones_that_byhand_takes(command: str) -> None:
    assert parse(shlex.split(command)[1:]).command in ("train", "eval")


def test_the_options_exist() -> None:
    found = re.findall(r"`(\w+Config)\(([^`]*)\)`", PAGE)
    assert len(found) >= 9
    for config, options in found:
        fields = {field.name for field in dataclasses.fields(getattr(byhand, config))}
        assert set(re.findall(r"(\w+)=", options)) <= fields, (config, options)
