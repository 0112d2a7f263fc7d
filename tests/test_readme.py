"""The README: its Python examples run, its excerpt equals the code, CI finds its commands."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

import byhand

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def snippets(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_of_the_first_five_minutes_runs(capsys):
    """In one session from top to bottom, as a reader would type it."""
    scope: dict[str, object] = {}
    ran = 0
    for code in snippets("python"):
        if code.startswith("class "):
            continue  # an excerpt of the package, not something to type
        exec(compile(code, "README.md", "exec"), scope)
        ran += 1
    assert ran >= 3
    out = capsys.readouterr().out
    assert 3.0 < float(out.splitlines()[0]) < 5.0  # the loss of an untrained model, near ln 65
    assert "tolerance" in out
    assert np.allclose(scope["dx"], 0, atol=1e-6)  # type: ignore[arg-type]


def test_the_excerpt_of_the_package_equals_its_code():
    source = (Path(byhand.__file__).parent / "models" / "gpt.py").read_text(encoding="utf-8")
    (excerpt,) = (code for code in snippets("python") if code.startswith("class "))
    for line in excerpt.splitlines():
        if line.strip().startswith(("x = ", "d = ", "return ")):
            assert line in source, line


def test_both_commands_are_marked_for_ci():
    for mark in ("install and train", "install and test"):
        assert re.search(rf"<!-- {mark} -->\n```sh\n(.+\n)+```", README)
