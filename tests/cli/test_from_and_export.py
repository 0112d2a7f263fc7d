"""Runs that start from the weights of another, and exported weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from byhand.cli.main import main
from byhand.runs import Run, load, load_trained
from byhand.runs.checkpoint import read
from byhand.runs.export import export
from tests.training import small


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text, another one of the same characters, and a finished run of the first."""
    folder = tmp_path_factory.mktemp("original")
    (folder / "text.txt").write_text(small.text())
    (folder / "other.txt").write_text(small.text()[::-1])
    flags = [*small.SIZES, "--steps", "30", "--lr", "0.02", "--eval-every", "10", "--beta2", "0.9"]
    flags += ["--sample-tokens", "0"]
    assert main(["train", str(folder / "text.txt"), "--out", str(folder / "run"), *flags]) == 0
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def first_weights(of: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict:
    """The weights before the first step of `byhand train` with these arguments."""
    from byhand.training import Trainer

    found = {}

    def train_step(self: Trainer) -> None:
        found.update({name: np.array(a) for name, a in self.model.state_dict().items()})
        found["moments"] = {name: np.array(a) for name, a in self.optimizer.slots.items()}
        found["count"] = self.optimizer.step_count
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", train_step)
        assert main(["train", *arguments, "--from", of, "--out", "new"]) == 130
    return found


@pytest.mark.parametrize("which", ["best", "last"])
def test_a_run_starts_from_the_weights_of_another(folder: Path, monkeypatch, which: str):
    """With the optimizer at its beginning."""
    checkpoint = ["--checkpoint", which] if which == "last" else []
    found = first_weights("run", monkeypatch, "other.txt", *checkpoint)
    moments, count = found.pop("moments"), found.pop("count")
    for name, value in read(folder / "run" / f"{which}.safetensors").group("model").items():
        assert np.array_equal(found.pop(name), value)
    assert not found
    assert count == 0
    assert all(not moment.any() for moment in moments.values())


def test_the_settings_are_those_of_the_other_run_where_no_flag_says_otherwise(folder: Path):
    former = Run("run").read_config()
    command = ["train", "other.txt", "--from", "run", "--steps", "6"]
    assert main([*command, "--lr", "0.004", "--out", "new"]) == 0
    made = Run("new").read_config()
    assert (made.model, made.tokenizer, made.kind) == (former.model, former.tokenizer, former.kind)
    assert made.data.name == str(folder / "other.txt")
    changed = {"steps": 6, "lr": 0.004, "min_lr": 0.0004, "warmup": 0}
    assert made.training == former.training.replace(**changed)
    assert made.training.beta2 == 0.9
    # Given ones are kept.
    assert main([*command, "--min-lr", "0.001", "--warmup", "2", "--out", "newer"]) == 0
    newer = Run("newer").read_config().training
    assert (newer.lr, newer.min_lr, newer.warmup) == (0.02, 0.001, 2)


def test_a_run_that_started_from_another_is_resumed_like_any(folder: Path):
    command = ["train", "other.txt", "--from", "run", "--out", "new", "--steps", "4"]
    assert main(command) == 0
    assert main(["train", "--resume", "--out", "new", "--steps", "8"]) == 0
    assert read(folder / "new" / "last.safetensors").state["step"] == 8


def test_the_text_is_the_one_of_the_other_run_if_none_is_named(folder: Path):
    assert main(["train", "--from", "run", "--steps", "2"]) == 0
    made = Run("runs/from-run").read_config()
    assert made.data == Run("run").read_config().data


def test_a_trained_start_has_a_lower_loss(folder: Path, capsys: pytest.CaptureFixture[str]):
    losses = []
    for start in ([], ["--from", "run"]):
        sizes = [] if start else small.SIZES
        out = f"out{len(start)}"
        assert main(["train", "text.txt", *start, *sizes, "--steps", "1", "--out", out]) == 0
        line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("step 0 of"))
        losses.append(float(line.split()[6].rstrip(",")))
    assert losses[1] < losses[0] - 0.3


def test_an_export_has_the_weights_and_nothing_else(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["export", "run", "--out", "small"]) == 0
    count = load("run").num_parameters()
    assert f"small has the best weights of run: {count:,} numbers" in capsys.readouterr().out
    names = {path.name for path in (folder / "small").iterdir()}
    assert names == {"config.json", "tokenizer.json", "best.safetensors"}
    sizes = [(folder / name / "best.safetensors").stat().st_size for name in ("small", "run")]
    assert sizes[0] < 0.6 * sizes[1]
    made, former = (read(folder / name / "best.safetensors") for name in ("small", "run"))
    assert made.group("model").keys() == former.group("model").keys() == made_names(made)
    for name, value in former.group("model").items():
        assert made.group("model")[name].tobytes() == value.tobytes()
    trained = [load_trained(name) for name in ("small", "run")]
    assert trained[0].step == trained[1].step
    assert trained[0].config == trained[1].config
    assert trained[0].tokenizer == trained[1].tokenizer


def made_names(saved) -> set[str]:
    """The names of all tensors, without the group "model"."""
    return {name.removeprefix("model.") for name in saved.tensors}


def test_the_checkpoint_that_is_exported_can_be_chosen(folder: Path):
    assert export("run", "a", "last") == export("run", "b") > 0
    assert load_trained("a").step == 30
    last = read(folder / "run" / "last.safetensors").group("model")
    for name, value in read(folder / "a" / "best.safetensors").group("model").items():
        assert np.array_equal(value, last[name])


def test_an_export_is_used_like_a_run(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["export", "run", "--out", "small"]) == 0
    capsys.readouterr()
    outputs = []
    for name in ("run", "small"):
        assert main(["generate", name, "--prompt", "to be", "--max-new-tokens", "30"]) == 0
        assert main(["eval", name]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    assert main(["export", "small", "--out", "again"]) == 0
    assert main(["train", "other.txt", "--from", "small", "--steps", "2", "--out", "new"]) == 0


@pytest.mark.parametrize("checkpoint", [[], ["--checkpoint", "best"], ["--checkpoint", "last"]])
def test_an_export_cannot_be_resumed(folder: Path, capsys, checkpoint: list[str]):
    assert main(["export", "run", "--out", "small"]) == 0
    capsys.readouterr()
    before = {path: path.read_bytes() for path in (folder / "small").iterdir()}
    assert main(["train", "--resume", "--out", "small", "--steps", "99", *checkpoint]) == 2
    assert capsys.readouterr().err == (
        "byhand: small has exported weights without the optimizer's state, so it cannot be "
        "resumed: start a new run from them with --from\n"
    )
    assert {path: path.read_bytes() for path in (folder / "small").iterdir()} == before


def test_a_failed_export_leaves_no_half_of_it(folder: Path, monkeypatch, capsys):
    from byhand.files import write_atomically

    def full(path: Path, data: bytes) -> None:
        if path.suffix == ".safetensors":
            raise OSError(28, "No space left on device")
        write_atomically(path, data)

    monkeypatch.setattr("byhand.runs.run.write_atomically", full)
    assert main(["export", "run", "--out", "small"]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not (folder / "small").exists()
    assert main(["export", "run", "--out", "new/models/small"]) == 2
    assert not (folder / "new").exists(), "the folders above it were made for it"
    (folder / "mine").mkdir()
    assert main(["export", "run", "--out", "mine"]) == 2
    assert list((folder / "mine").iterdir()) == [], "a folder that was there stays"
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert main(["export", "run", "--out", "small"]) == 0
