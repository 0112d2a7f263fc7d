"""loss.png: what it shows, and that no failure of it ends a run."""

import base64
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from byhand.runs.log import Log
from byhand.runs.plot import MISSING, LossPlot, loss_figure, moving_average
from byhand.training import text_trainer
from tests.training import small

RECORDS = [
    {"step": 0, "validation_loss": 4.0},
    {"step": 1, "loss": 1 / 3, "lr": 1e-300},
    {"step": 2, "loss": 0.1 + 0.2, "lr": 1e-4},
    {"step": 2, "validation_loss": 2.0},
    {"step": 3, "loss": 5e-324, "lr": 1e-4},
    {"step": 4, "validation_loss": 1.5},
]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    log = Log(tmp_path / "log.jsonl")
    for record in RECORDS:
        log.write(**record)
    log.close()
    return log.path


def test_the_figure_has_both_curves_over_the_steps():
    axes = loss_figure(RECORDS, "nats per character").axes[0]
    raw, training, validation = axes.get_lines()
    assert raw.get_xydata().tolist() == [[1, 1 / 3], [2, 0.1 + 0.2], [3, 5e-324]]
    assert raw.get_alpha() < 0.5
    assert training.get_xdata().tolist() == [1, 2, 3]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "loss (nats per character)")
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["training", "validation"]
    # A point at step 0, then a gap in the line, then the evaluations of the training.
    shown = [[x, None if math.isnan(y) else y] for x, y in validation.get_xydata().tolist()]
    assert shown == [[0, 4.0], [0, None], [2, 2.0], [4, 1.5]]
    assert validation.get_marker() == "o"


def test_a_notebook_shows_a_trainer_with_its_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = small.config(steps=4, eval_every=2)
    with_run = small.new_trainer(tmp_path, config)
    without = text_trainer(config, small.TOKENIZER, small.text())
    assert with_run._repr_html_() == without._repr_html_() == "<p>step 0 of 4</p>"
    for trainer in (with_run, without):
        trainer.run()
        shown = trainer._repr_html_()
        best = f"lowest validation loss {trainer.best_loss:.4f} at step {trainer.best_step}"
        assert shown.startswith(f"<p>step 4 of 4, {best}</p><img alt=")
        data = base64.b64decode(shown.partition("base64,")[2].partition('"')[0])
        assert data.startswith(b"\x89PNG")
    monkeypatch.setattr("byhand.runs.plot._is_installed", lambda name: False)
    assert without._repr_html_() == f"<p>step 4 of 4, {best}</p>", "without matplotlib"


def test_the_history_of_a_trainer_plots_both_curves_on_their_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = small.config(steps=6, eval_every=2)
    with_run = small.new_trainer(tmp_path / "run", config)
    without = text_trainer(config, small.TOKENIZER, small.text())
    assert with_run.history == without.history == []
    for trainer, name in ((with_run, "loss.png"), (without, "loss.svg")):
        trainer.run()
        axes = trainer.history.plot(tmp_path / name).axes[0]
        raw, _, validation = axes.get_lines()
        losses = [(r["step"], r["loss"]) for r in trainer.history if "loss" in r]
        assert [tuple(point) for point in raw.get_xydata()] == losses
        assert [step for step, _ in losses] == [1, 2, 3, 4, 5, 6]
        wanted = {
            r["step"]: r["validation_loss"] for r in trainer.history if "validation_loss" in r
        }
        shown = {x: y for x, y in validation.get_xydata() if not math.isnan(y)}
        assert shown == wanted
        assert [*wanted] == [0, 2, 4, 6]
        assert axes.get_ylabel() == f"loss ({trainer.task.loss_unit})"
        assert axes.get_legend()._loc == 6, "centre left"
        assert axes.xaxis.get_gridlines()[0].get_visible()
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "loss.svg").read_bytes()
    same = [{**r, "seconds": 0} for r in with_run.history]
    assert same == [{**r, "seconds": 0} for r in without.history]
    monkeypatch.setattr("byhand.runs.plot._is_installed", lambda name: False)
    with pytest.raises(ImportError, match=r"^history.plot\(\) needs matplotlib: pip install"):
        without.history.plot()


@pytest.mark.parametrize("records", [[], RECORDS[:1], RECORDS[1:2], RECORDS[3:4]])
def test_a_figure_of_few_records(records: list):
    loss_figure(records).savefig(os.devnull, format="png")


def test_the_moving_average():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(2000)
    smooth = np.array(moving_average(noise))
    assert smooth[1000] == pytest.approx(noise[980:1021].mean())
    assert smooth[7] == pytest.approx(noise[0:15].mean())
    assert smooth[0] == noise[0]
    assert smooth[-1] == pytest.approx(noise[-21:].mean())
    assert smooth[100:].std() < 0.25
    line = np.arange(500) / 7  # a straight line is not shifted, not even where it begins
    assert moving_average(line)[:495] == pytest.approx(line[:495])
    assert moving_average([]) == []


def test_the_plot_is_a_png(tmp_path: Path, log: Path):
    plot = LossPlot(log, tmp_path / "loss.png", pytest.fail, pause=1e9)
    plot.draw_if_due()
    assert not (tmp_path / "loss.png").exists(), "the pause is not over"
    plot.draw()
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_without_matplotlib_one_sentence(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    reported: list[str] = []
    plot = LossPlot(log, tmp_path / "loss.png", reported.append)
    plot.draw()
    assert reported == [MISSING]
    assert "pip install 'byhand[plot]'" in MISSING
    assert not (tmp_path / "loss.png").exists()


def a_folder_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "loss.png").mkdir()
    return "irectory"


def no_tex(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", raising(RuntimeError("no latex")))
    return "no latex"


def a_damaged_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    return "matplotlib.figure"


def a_module_without_a_specification(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("importlib.util.find_spec", raising(ValueError("__spec__ is None")))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    return "matplotlib.figure"


def an_error_without_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("byhand.runs.plot.loss_figure", raising(MemoryError()))
    return "MemoryError"


def raising(error: Exception):
    def fail(*args: object, **options: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    "prepare",
    [
        a_folder_in_its_place,
        no_tex,
        a_damaged_installation,
        a_module_without_a_specification,
        an_error_without_words,
    ],
)
def test_a_plot_that_fails_is_reported_once_and_is_no_error(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch, prepare
):
    words = prepare(tmp_path, monkeypatch)
    reported: list[str] = []
    plot = LossPlot(log, tmp_path / "loss.png", reported.append)
    plot.draw()
    plot.draw()
    assert len(reported) == 1
    assert f"{tmp_path / 'loss.png'} is not drawn (" in reported[0]
    assert words in reported[0]
    assert reported[0].endswith("training goes on, and the numbers are in log.jsonl")


def test_a_plot_that_becomes_possible_is_drawn(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
):
    plot = LossPlot(log, tmp_path / "loss.png", lambda line: None)
    with monkeypatch.context() as patch:
        no_tex(tmp_path, patch)
        plot.draw()
    assert not (tmp_path / "loss.png").exists()
    plot.draw()
    assert (tmp_path / "loss.png").exists()


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"MPLBACKEND": "no such back end"}, "is not a valid value for backend"),
        ({"MATPLOTLIBRC": "{folder}/matplotlibrc", "PATH": ""}, "latex"),
    ],
)
def test_a_run_ends_well_without_its_plot(tmp_path: Path, environment: dict, words: str):
    (tmp_path / "text.txt").write_text(small.text())
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\n")
    settings = {name: value.format(folder=tmp_path) for name, value in environment.items()}
    command = ["train", "text.txt", "--out", "run", "--steps", "3", *small.SIZES]
    done = subprocess.run(
        [sys.executable, "-m", "byhand", *command],
        env={**os.environ, **settings},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = (line for line in done.stdout.splitlines() if "is not drawn" in line)
    assert words in line
    assert "done: 3 steps" in done.stdout
