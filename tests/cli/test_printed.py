"""Numbers that are only printed never stop a command, and messages name what the user typed."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest

from byhand.cli import evaluate
from byhand.cli.main import main
from byhand.data import consecutive_windows
from byhand.data.windows import num_batches
from byhand.errors import UserError, suggestion
from byhand.runs import TrainingSettings, load
from byhand.runs.log import Log
from byhand.runs.plot import LossPlot, loss_figure
from byhand.runs.progress import Display
from byhand.training import Diverged
from tests.training import small


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "text.txt").write_text(small.text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


TRAIN = ["train", "text.txt", "--out", "run", *small.SIZES, "--steps", "4", "--eval-every", "2"]


@pytest.mark.parametrize(
    ("loss", "shown"),
    [
        (0.0, "1.00"),
        (1.5, "4.48"),
        (20.0, "4.85e+08"),
        (709.0, "8.22e+307"),
        (710.0, "over 1e+308"),
        (1e300, "over 1e+308"),
    ],
)
def test_a_perplexity_of_any_loss(loss: float, shown: str):
    assert evaluate._perplexity(loss) == shown


@pytest.mark.parametrize("loss", [710.0, 1e30, 1.7e308])
def test_a_large_loss_is_evaluated_trained_and_drawn(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, loss: float
):
    from byhand.tasks import LanguageModel

    monkeypatch.setattr(LanguageModel, "metrics", lambda self, batch: {"loss": (loss, 1)})
    assert main([*TRAIN, "--eval-batches", "1", "--sample-tokens", "0"]) == 0
    if loss < 1e300:  # the sum over the batches of a whole text is still a float
        assert main(["eval", "run"]) == 0
        assert "perplexity over 1e+308" in capsys.readouterr().out
    assert loss > 1e300 or (folder / "run" / "loss.png").exists()


def test_large_losses_are_drawn_without_warnings(tmp_path: Path):
    log = Log(tmp_path / "log.jsonl")
    for step in range(300):
        log.write(step=step, loss=1.7e308, validation_loss=1e305 * step)
    log.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LossPlot(log.path, tmp_path / "loss.png", lambda line: None).draw()


@pytest.mark.parametrize(("steps", "seconds"), [(10**400, 1.0), (10, 1e308), (10**12, 1.0)])
def test_any_time_left_is_shown(capsys: pytest.CaptureFixture[str], steps: int, seconds: float):
    with Display() as display:
        display._shown -= 100
        display.step(1, steps, 1e308, 5, seconds)
    out = capsys.readouterr().out
    assert out.startswith("step 1 of 1")
    assert out.endswith("over 100 years left\n")


# --- The name of what is wrong -------------------------------------------------------------------


def test_a_divergence_names_flags_on_the_command_line_and_settings_in_a_program(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    config = small.config(lr=1e30, min_lr=1e30, warmup=0, clip=0.0)
    with pytest.raises(Diverged) as error:
        small.new_trainer(folder / "program", config).run()
    sentence = str(error.value)
    assert "--" not in sentence
    assert "a smaller lr (it is 1e+30), a longer warmup or a smaller clip may help" in sentence
    flags = ["--lr", "1e30", "--min-lr", "1e30", "--warmup", "0", "--clip", "0", "--steps", "20"]
    assert main(["train", "text.txt", "--out", "run", *small.SIZES, *flags]) == 2
    err = capsys.readouterr().err
    words = "a smaller --lr (it is 1e+30), a longer --warmup or a smaller --clip may help"
    assert words in err


@pytest.mark.parametrize("name", TrainingSettings.__dataclass_fields__)
def test_a_setting_is_named_as_its_flag_on_the_command_line(name: str):
    from byhand.cli.flags import as_flags
    from byhand.config import flag_of

    with pytest.raises(UserError) as error:
        TrainingSettings(**{name: {}})
    assert str(error.value).startswith(f"{name} must be")
    flag = flag_of(TrainingSettings, name)
    assert str(as_flags(error.value, [TrainingSettings])).startswith(f"{flag} must be")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("bacth", " (did you mean batch?)"),
        ("BATCH", " (did you mean batch?)"),
        ("xyz", ""),
        (7, ""),
        ("", ""),
    ],
)
def test_the_nearest_name(name: object, shown: str):
    assert suggestion(name, ["steps", "batch", "lr"]) == shown


def test_a_program_is_told_of_arguments_and_not_of_flags(folder: Path):
    assert main(TRAIN) == 0
    best = folder / "run" / "best.safetensors"
    best.write_bytes(best.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"use it with which=last$"):
        load("run")
    assert load("run", which="last").num_parameters() == 1048


# --- Evaluations ---


@pytest.mark.parametrize("limit", [None, 1, 2, 3, 4, 100])
@pytest.mark.parametrize("tokens", [5, 6, 7, 30, 31, 36])
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_the_number_of_batches_is_known_before_they_are_made(tokens: int, batch: int, limit):
    ids = np.arange(tokens)
    made = list(consecutive_windows(ids, 5, batch, limit))
    assert num_batches(tokens, 5, batch, limit) == len(made)


def test_evaluations_show_how_far_they_are(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """In training beside the other lines, and in `byhand eval` apart from its result."""
    monkeypatch.setattr("byhand.runs.progress._LINE_EVERY", 0.0)
    assert main([*TRAIN, "--eval-batches", "3"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line for line in out if line.startswith("evaluating: batch 0 of 3")]
    assert len([line for line in out if line.startswith("evaluating: batch 2 of 3: 0 s left")]) == 3
    assert [line for line in out if line.startswith("step 3 of 4: loss 2.")]
    assert main(["eval", "run", "--batch", "10"]) == 0
    shown, err = capsys.readouterr()
    assert shown.startswith("loss 2.")
    assert shown.count("\n") == 1
    assert [line.partition(":")[2].split()[:4] for line in err.splitlines()] == [
        ["batch", str(i), "of", "5:" if i else "5"] for i in range(5)
    ]


# --- Units ---------------------------------------------------------------------------------------


def test_training_evaluation_and_plot_say_the_same_unit(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    labels = []
    monkeypatch.setattr(
        "byhand.runs.plot.loss_figure",
        lambda records, unit: labels.append(unit) or loss_figure(records, unit),
    )
    assert main(TRAIN) == 0
    assert "; losses in nats per character; " in capsys.readouterr().out
    assert set(labels) == {"nats per character"}
    assert main(["eval", "run"]) == 0
    out = capsys.readouterr().out
    nats, bits = (float(out.split()[i].strip("(")) for i in (1, 5))
    assert out.split()[2:5] == ["nats", "per", "character"]
    assert bits == pytest.approx(nats / math.log(2), abs=1e-3)
