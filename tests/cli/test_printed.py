"""Numbers that are only printed never stop a command, and messages name what the user typed."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import pytest

from byhand.cli import evaluate
from byhand.cli.main import main
from byhand.errors import UserError, suggestion
from byhand.runs import TrainingSettings
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
        TrainingSettings(**{name: None})
    assert str(error.value).startswith(f"{name} must be")
    flag = flag_of(TrainingSettings, name)
    assert str(as_flags(error.value, [TrainingSettings])).startswith(f"{flag} must be")


@pytest.mark.parametrize(
    ("name", "shown"),
    [("bacth", " (did you mean batch?)"), ("xyz", ""), (7, ""), ("", "")],
)
def test_the_nearest_name(name: object, shown: str):
    assert suggestion(name, ["steps", "batch", "lr"]) == shown


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
