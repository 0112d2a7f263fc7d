"""What a trainer is given, keeps and saves reaches its consumers."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from byhand.runs import Run
from byhand.runs.checkpoint import Checkpoint
from byhand.runs.log import read_log
from byhand.training import Callback, Trainer
from byhand.training.setup import text_trainer
from tests.training import small


class Shown(small.Quiet):
    """A display that keeps what it is told; with a loss and a speed, as after the first step."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[float, ...]] = []

    def step(self, *numbers: float) -> None:
        self.steps.append(numbers)


def made(of: Any = None, **options: Any) -> Trainer:
    return text_trainer(of or small.config(), small.TOKENIZER, small.text(), **options)


# --- What a checkpoint holds -------------------------------------------------------------------

CHANGES: dict[str, Any] = {
    "step": 7,
    "evaluated": 5,
    "best_loss": 0.125,
    "best_step": 4,
    "seconds": 12.5,
    "optimizer_step": 9,
}


def changed(folder: Path, changes: dict[str, Any]) -> tuple[Trainer, Checkpoint]:
    """A new trainer, and a checkpoint of it with other numbers."""
    trainer = small.new_trainer(folder)
    tensors = {name: value + 1 for name, value in trainer.tensors().items()}
    return trainer, Checkpoint(tensors, {**copy.deepcopy(trainer.state()), **changes})


@pytest.mark.parametrize("name", CHANGES)
def test_every_number_of_a_checkpoint_is_restored_and_saved(name: str, tmp_path: Path):
    trainer, saved = changed(tmp_path, {name: CHANGES[name], "best_step": 4})
    if name != "best_loss":
        saved.state["best_loss"] = 2.0
    assert trainer.state()[name] != CHANGES[name]
    trainer.restore(saved, "it")
    assert trainer.state()[name] == CHANGES[name]


def test_every_entry_of_a_checkpoint_is_tested(tmp_path: Path):
    state = small.new_trainer(tmp_path).state()
    assert state.keys() == {*CHANGES, "sampler", "generator", "config", "backend"}


def test_the_generators_of_a_checkpoint_are_restored_and_saved(tmp_path: Path):
    trainer, saved = changed(tmp_path / "one", {})
    donor = small.new_trainer(tmp_path / "two", small.config(seed=8))
    next(donor.sampler)
    donor.model.generator.load_state_dict({"seed": 77, "count": 5})
    for name in ("sampler", "generator"):
        saved.state[name] = donor.state()[name]
        assert trainer.state()[name] != saved.state[name]
    trainer.restore(saved, "it")
    assert trainer.state()["sampler"] == donor.state()["sampler"]
    assert trainer.state()["generator"] == {"seed": 77, "count": 5}
    assert next(trainer.sampler).tolist() == next(donor.sampler).tolist()


def test_every_tensor_of_a_checkpoint_is_restored_and_saved(tmp_path: Path):
    trainer, saved = changed(tmp_path, {})
    kinds = {name.split(".")[0] for name in saved.tensors}
    assert kinds == {"model", "optimizer"}
    assert {name.split(".")[1] for name in saved.tensors if name[0] == "o"} == {"m", "v"}
    trainer.restore(saved, "it")
    for name, value in trainer.tensors().items():
        np.testing.assert_array_equal(value, saved.tensors[name])
    assert trainer.saved == trainer.step


def test_without_an_evaluation_the_best_loss_is_infinite_again(tmp_path: Path):
    trainer, saved = changed(tmp_path, {})
    assert saved.state["best_loss"] is None
    trainer.best_loss = 1.0
    trainer.restore(saved, "it")
    assert trainer.best_loss == math.inf


def test_the_best_loss_may_be_that_of_the_evaluation_at_step_0(tmp_path: Path):
    trainer, saved = changed(tmp_path, {"best_loss": 0.5, "best_step": 0})
    trainer.restore(saved, "it")
    assert (trainer.best_loss, trainer.best_step) == (0.5, 0)
    assert trainer.state()["best_loss"] == 0.5


def test_the_best_checkpoint_is_saved_before_the_last_and_only_when_the_loss_is_lower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    names: list[str] = []
    monkeypatch.setattr(Run, "save_checkpoint", lambda run, name, data: names.append(name))
    trainer = small.new_trainer(tmp_path)
    values: dict[str, tuple[float, int]] = {}
    trainer.task.metrics = lambda batch: values  # type: ignore[method-assign]
    best: list[tuple[float, int]] = []
    for step, loss in enumerate([2.0, 3.0, 2.0, 1.0]):
        values["loss"] = loss, 1
        trainer.step = step
        trainer.evaluate()
        best.append((trainer.best_loss, trainer.best_step))
        assert trainer.saved == trainer.evaluated == step
    assert names == ["best", "last", "last", "last", "best", "last"]
    assert best == [(2.0, 0), (2.0, 0), (2.0, 0), (1.0, 3)]


def test_the_metric_of_the_task_decides_which_is_best(tmp_path: Path):
    trainer = small.new_trainer(tmp_path)
    trainer.task.metric = "error"
    values: dict[str, float] = {}
    trainer.task.metrics = lambda batch: {k: (v, 1) for k, v in values.items()}  # type: ignore[method-assign]
    for step, (loss, error) in enumerate([(1.0, 0.5), (0.5, 0.75), (2.0, 0.25)]):
        values.update(loss=loss, error=error)
        trainer.step = step
        trainer.evaluate()
    assert (trainer.best_loss, trainer.best_step) == (0.25, 2)


def test_the_log_is_on_the_disk_before_a_checkpoint_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A run that is killed during the save has the records of every step up to it."""
    found: list[list[int]] = []

    def save_checkpoint(run: Run, name: str, data: bytes) -> None:
        found.append([record["step"] for record in read_log(run.log_path)])

    monkeypatch.setattr(Run, "save_checkpoint", save_checkpoint)
    trainer = small.new_trainer(tmp_path, small.config(steps=2, eval_every=1, warmup=0))
    trainer.best_loss = -math.inf  # saves "last" only
    trainer.run()
    assert found == [[0], [0, 1, 1], [0, 1, 1, 2, 2]]


# --- Callbacks, display, log -------------------------------------------------------------------


class Events(Callback):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_load(self, trainer: Trainer, batch: Any) -> None:
        self.seen.append(("load", batch["ids"].shape))

    def on_forward(self, trainer: Trainer) -> None:
        self.seen.append("forward")

    def on_loss(self, trainer: Trainer, loss: float | None) -> None:
        self.seen.append(("loss", loss))

    def on_backward(self, trainer: Trainer) -> None:
        self.seen.append("backward")

    def on_step(self, trainer: Trainer, step: int, loss: float, norm: float | None) -> None:
        self.seen.append(("step", step, loss, norm))

    def on_repeat(self, trainer: Trainer, step: int) -> None:
        self.seen.append(("repeat", step))

    def on_evaluate(self, trainer: Trainer, step: int, metrics: dict[str, float]) -> None:
        self.seen.append(("evaluate", step, metrics))


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_every_callback_gets_every_event_in_order(clip: float):
    trainer = made(small.config(steps=1, warmup=0, accumulate=2, clip=clip))
    one, other = Events(), Events()
    trainer.callbacks += [one, other]
    trainer.run()
    first, (loss_1, loss_2) = trainer.history[0], [e[1] for e in one.seen if e[0] == "loss"]
    step, last = trainer.history[1:]
    assert loss_1 + loss_2 == pytest.approx(step["loss"])
    norm = step["norm"]
    assert (norm is None) == (clip == 0)
    load = ("load", (3, 6))
    # The text is ASCII and a token a character, so all three are the same.
    names = ("loss", "loss_per_character", "loss_per_byte")
    batches = [load, "forward", ("loss", loss_1), "backward"]
    batches += [load, "forward", ("loss", loss_2), "backward"]
    assert one.seen == [
        ("evaluate", 0, dict.fromkeys(names, first["validation_loss"])),
        *batches,
        ("step", 1, step["loss"], norm),
        ("repeat", 1),
        ("evaluate", 1, dict.fromkeys(names, last["validation_loss"])),
    ]
    assert other.seen == one.seen


def test_the_display_gets_each_step_and_a_line_for_each_evaluation():
    shown = Shown()
    trainer = made(small.config(steps=2, accumulate=2, eval_every=2, warmup=0), display=shown)
    shown.loss, shown.speed = 1.25, 3000.0  # type: ignore[assignment]
    trainer.run()
    assert [numbers[:2] for numbers in shown.steps] == [(1, 2), (2, 2)]
    assert [numbers[3] for numbers in shown.steps] == [2 * 3 * 6] * 2
    losses = [record["loss"] for record in trainer.history if "loss" in record]
    assert [numbers[2] for numbers in shown.steps] == losses
    seconds = [record["seconds"] for record in trainer.history if "loss" in record]
    assert sum(numbers[4] for numbers in shown.steps) <= seconds[-1] + 1e-3
    values = [r["validation_loss"] for r in trainer.history if "validation_loss" in r]
    lines = [line for line in shown.lines if line.startswith("step")]
    for line, step, value in zip(lines, (0, 2), values, strict=True):
        said = (
            f"step {step} of 2: validation loss {value:.4f}, training loss 1.2500, 3,000 tokens/s"
        )
        best = " (best so far)" if value == min(values[: values.index(value) + 1]) else ""
        assert line == said + best


def test_seconds_are_those_of_all_steps_and_evaluations(monkeypatch: pytest.MonkeyPatch):
    """A clock that advances by one second each time it is read."""
    ticks = iter(range(1000))
    monkeypatch.setattr("byhand.training.trainer.time.perf_counter", lambda: float(next(ticks)))
    trainer = made(small.config(steps=2, eval_every=1, warmup=0))
    trainer.seconds = 100.0
    trainer.run()
    assert [record["seconds"] for record in trainer.history] == [101, 102, 103, 104, 105]
    assert trainer.seconds == 105


def test_a_trainer_without_a_run_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    trainer = made(small.config(steps=1, warmup=0))
    trainer.run()
    assert len(trainer.history) == 3
    assert list(tmp_path.iterdir()) == []
    assert trainer.saved == -1
