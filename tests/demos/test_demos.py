"""`byhand demo`: the list, each example and its plot, and wrong arguments."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from byhand import registry
from byhand.cli.main import main
from byhand.demos.demo import matrix, table
from tests.wiring.test_flags_wiring import flags_of

NAMES = registry.kinds("demos")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("arguments", [[], ["--list"]])
def test_the_list_has_a_line_for_each(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(["demo", *arguments]) == 0
    *lines, empty, hint = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == NAMES
    for line, name in zip(lines, NAMES, strict=True):
        kind = registry.find("demos", name).Demo
        assert kind.about in line
        assert all(re.fullmatch(r"[A-E]\d\d", row) and row in line for row in kind.rows)
        assert kind.rows
        assert len(line) <= 100
    assert (empty, hint) == ("", "byhand demo NAME shows one; --plot draws it")


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_printed_and_drawn(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["demo", name]) == 0
    text, err = capsys.readouterr()
    assert list(tmp_path.iterdir()) == []
    assert err == ""
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 100
    assert "nan" not in text or name in ("softmax", "mask")
    assert main(["demo", name.replace("_", "-"), "--plot"]) == 0
    again = capsys.readouterr().out
    assert again == f"{text}\nthe plot is in demo-{name}.png\n", "the same text on every call"
    (drawn,) = tmp_path.iterdir()
    assert drawn.name == f"demo-{name}.png"
    assert drawn.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize("name", NAMES)
def test_every_plot_shows_something(name: str):
    from matplotlib.figure import Figure

    figure = Figure()
    registry.find("demos", name).Demo().draw(figure)
    assert figure.axes
    for axes in figure.axes:
        assert axes.images or axes.lines or axes.patches or axes.collections


def test_the_file_of_a_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "a b").mkdir()
    for out in ("x.png", "a b/é.PNG"):
        assert main(["demo", "mask", "--plot", "--out", out]) == 0
        assert f"the plot is in {Path(out)}" in capsys.readouterr().out
        assert (tmp_path / out).read_bytes().startswith(b"\x89PNG")


def test_every_flag_has_a_test_here():
    assert flags_of("demo") == {"name", "--list", "--plot", "--out"}


MISTAKES = [
    (["sofmax"], "there is no demo called 'sofmax' (did you mean softmax?): choose from attention"),
    (["layernorm"], "(did you mean layer_norm?)"),
    (["demo"], "there is no demo called 'demo'"),
    (["__init__"], "there is no demo called '__init__'"),
    (["../ops/softmax"], "there is no demo called '../ops/softmax'"),
    (["Softmax"], "(did you mean softmax?)"),
    (["D06"], "there is no demo called 'D06'"),
    (["softmax.py"], "(did you mean softmax?)"),
    (["é"], "there is no demo called 'é'"),
    (["3"], "there is no demo called '3'"),
    ([" "], "there is no demo called ' '"),
    ([""], "must not be empty (is a shell variable not set?)"),
    (["softmax", "mask"], "unexpected argument 'mask'"),
    (["softmax", "--polt"], "there is no flag --polt (did you mean --plot?)"),
    (["--plot"], "--plot needs the NAME of an example"),
    (["--out", "x.png"], "--plot needs the NAME of an example"),
    (["softmax", "--list"], "--list is used alone: byhand demo --list"),
    (["--list", "--plot"], "--list is used alone: byhand demo --list"),
    (["softmax", "--plot=x.png"], "argument --plot: ignored explicit argument 'x.png'"),
    (["softmax", "--out", "x.png"], "--out is the file of --plot: add --plot"),
    (["softmax", "--plot", "--out", "x.pdf"], "--out must be a file that ends in .png, not x.pdf"),
    (["softmax", "--plot", "--out", "x"], "--out must be a file that ends in .png, not x"),
    (["softmax", "--plot", "--out", ""], "argument --out: must not be empty"),
    (["softmax", "--plot", "--out"], "argument --out: expected one argument"),
    (["softmax", "--plot", "--out", "no/x.png"], "a folder that exists, but there is no no"),
    (["softmax", "--plot", "--out", "d.png"], "--out must be a file, but d.png is a folder"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=[" ".join(a) for a, _ in MISTAKES])
def test_a_mistake_is_one_sentence(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "d.png").mkdir()
    assert main(["demo", *arguments]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("byhand: ")
    assert err.count("\n") == 1
    assert words in err
    assert out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["d.png"]


def test_without_matplotlib_the_plot_is_refused_and_the_text_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for module in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, module, None)
    assert main(["demo", "pairs"]) == 0
    capsys.readouterr()
    assert main(["demo", "pairs", "--plot"]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("byhand: --plot needs matplotlib, which cannot be used (")
    assert err.endswith("): pip install 'byhand[plot]'\n")
    assert err.count("\n") == 1
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_plot_that_fails_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def savefig(*args: object, **options: object) -> None:
        raise RuntimeError("no latex")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", savefig)
    assert main(["demo", "pairs", "--plot"]) == 2
    assert capsys.readouterr().err == "byhand: demo-pairs.png is not drawn (no latex)\n"
    assert list(tmp_path.iterdir()) == []


def test_the_text_of_an_example_needs_no_matplotlib():
    code = (
        "import sys; from byhand.cli.main import main; main(['demo', 'attention']); "
        "assert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)


def test_tables_are_aligned():
    assert table([("a", 1, 0.5), ("bcd", 10, -0.25)]) == "  a     1   0.500\n  bcd  10  -0.250"
    assert matrix([[1, float("-inf")]]) == "  1.000  -inf"
    assert table([]) == ""
