"""The training loop: it learns, reports, and stops when the loss is not finite or the disk full."""

import itertools
import math
import os
import weakref
from pathlib import Path

import numpy as np
import pytest

from byhand import files, optim
from byhand.data import consecutive_windows
from byhand.errors import UserError
from byhand.runs import load_trained
from byhand.runs.checkpoint import read
from byhand.runs.log import Log, read_log
from byhand.training import Diverged
from byhand.training.evaluate import evaluate
from tests.training import small


def test_the_loss_falls(tmp_path: Path):
    config = small.config(steps=150, lr=0.02, min_lr=0.002, eval_every=50, dropout=0.0)
    trainer = small.new_trainer(tmp_path, config)
    assert trainer.run() is None
    records = read_log(tmp_path / "log.jsonl")
    losses = [r["validation_loss"] for r in records if "validation_loss" in r]
    assert len(losses) == 4
    # It starts near the uniform distribution and ends far below the entropy of single letters.
    assert losses[0] == pytest.approx(math.log(len(small.TOKENIZER)), abs=0.15)
    counts = np.unique(list(small.text()), return_counts=True)[1] / len(small.text())
    assert losses[-1] < -(counts * np.log(counts)).sum() - 0.5
    assert trainer.best_loss == min(losses)
    assert load_trained(tmp_path).step == trainer.best_step


def test_the_files_of_a_finished_run(tmp_path: Path):
    small.new_trainer(tmp_path, small.config(steps=12, eval_every=5)).run()
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {
        "config.json",
        "tokenizer.json",
        "best.safetensors",
        "last.safetensors",
        "log.jsonl",
        "log.csv",
        "samples",
    }
    assert not [name for name in names if name.endswith(".tmp")]
    samples = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert samples == [f"step_{step:06d}.txt" for step in (0, 5, 10, 12)]
    for path in (tmp_path / "samples").iterdir():
        assert len(path.read_text()) == 10 + 1
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_log_has_every_step_and_every_evaluation(tmp_path: Path):
    config = small.config(steps=12, eval_every=5, warmup=3, lr=0.01, min_lr=0.001)
    small.new_trainer(tmp_path, config).run()
    records = list(read_log(tmp_path / "log.jsonl"))
    steps = [r for r in records if "loss" in r]
    assert [r["step"] for r in steps] == list(range(1, 13))
    assert [r["step"] for r in records if "validation_loss" in r] == [0, 5, 10, 12]
    assert [r["lr"] for r in steps] == [
        optim.WarmupCosine(lr=0.01, min_lr=0.001, warmup=3, total=12)(n) for n in range(12)
    ]
    assert all(r["norm"] > 0 for r in steps)
    assert [r["seconds"] for r in records] == sorted(r["seconds"] for r in records)


def test_evaluating_and_sampling_change_nothing(tmp_path: Path):
    """A run that evaluates after every step has the same weights as one that rarely does."""
    often, seldom = tmp_path / "often", tmp_path / "seldom"
    small.new_trainer(often, small.config(eval_every=1, eval_batches=1)).run()
    small.new_trainer(seldom, small.config(eval_every=20, sample_tokens=0)).run()
    ends = [read(folder / "last.safetensors").tensors for folder in (often, seldom)]
    assert all((ends[0][name] == ends[1][name]).all() for name in ends[0])


def test_the_seed_determines_the_run(tmp_path: Path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        small.new_trainer(tmp_path / name, small.config(seed=seed)).run()
    assert small.logged(tmp_path / "a") == small.logged(tmp_path / "b")
    assert small.logged(tmp_path / "a") != small.logged(tmp_path / "c")


class Given:
    """A sampler of batches that were chosen."""

    def __init__(self, *batches: np.ndarray):
        self.batch_size = len(batches[0])
        self._batches = iter(batches)

    def __next__(self) -> np.ndarray:
        return next(self._batches)

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass


def test_accumulated_batches_equal_one_larger_batch(tmp_path: Path):
    """Two batches of three windows give the gradient and the loss of one batch of the same six."""
    settings = {"steps": 1, "dropout": 0.0, "warmup": 0, "clip": 0.0}
    two = small.new_trainer(tmp_path / "two", small.config(batch_size=3, accumulate=2, **settings))
    one = small.new_trainer(tmp_path / "one", small.config(batch_size=6, **settings))
    windows = np.concatenate([next(two.sampler), next(two.sampler)])
    two.sampler, one.sampler = Given(windows[:3], windows[3:]), Given(windows)
    for trainer in (one, two):
        trainer.log = Log(trainer.run_folder.log_path)
        trainer.train_step()
        trainer.log.close()
    assert np.abs(one.model.storage.grads).max() > 0.01
    np.testing.assert_allclose(
        two.model.storage.grads, one.model.storage.grads, rtol=1e-3, atol=1e-6
    )
    losses = [small.logged(tmp_path / name)[0]["loss"] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_validation_loss_is_the_mean_over_every_token(tmp_path: Path):
    trainer = small.new_trainer(tmp_path, small.config(dropout=0.5))
    ids, model = trainer.data.validation_ids.astype(np.int64), trainer.model

    def mean_loss(batch: int, limit: int | None = None) -> float:
        found = evaluate(trainer.task, consecutive_windows(ids, 6, batch, limit))
        assert found is not None
        return found["loss"]

    with model.in_inference():
        losses = []
        for start in range(0, len(ids) - 1, 6):
            x, y = ids[start : start + 6], ids[start + 1 : start + 7]
            logits = np.asarray(model(x[None, : len(y)])[0], np.float64)
            logits -= np.logaddexp.reduce(logits, axis=1, keepdims=True)
            losses += [-logits[t, y[t]] for t in range(len(y))]
    assert len(losses) == len(ids) - 1
    for batch in (1, 4, 1000):
        assert mean_loss(batch) == pytest.approx(np.mean(losses), rel=1e-5)
    assert model.training
    few = mean_loss(4, limit=8)
    assert few == mean_loss(4, limit=8)
    assert few == pytest.approx(np.mean(losses), rel=0.1)
    assert few != mean_loss(4)


@pytest.mark.parametrize("accumulate", [10**12, 10**30])
def test_the_batches_of_a_step_are_made_one_at_a_time(tmp_path: Path, accumulate: int):
    """A step of very many batches needs the memory of few, and a signal ends it between two."""
    trainer = small.new_trainer(tmp_path, small.config(accumulate=accumulate, eval_every=20))
    plain, made, alive = trainer.data.train.batch, 0, weakref.WeakSet()

    class Ids(np.ndarray):
        """An array that can be referred to weakly and hashed."""

        __hash__ = object.__hash__

    def batch(indices: np.ndarray) -> dict[str, np.ndarray]:
        nonlocal made
        made += 1
        if made == 60:
            os.kill(os.getpid(), 15)
        found = plain(indices)
        marker = found["indices"] = indices.view(Ids)
        alive.add(marker)
        assert len(alive) <= 20
        return found

    trainer.data.train.batch = batch  # type: ignore[method-assign]
    first = trainer.sampler.state_dict()
    assert trainer.run() == 15
    assert (made, trainer.step) == (60, 0)
    assert (trainer.sampler.state_dict(), trainer.model.generator.count) == (first, 0)
    assert read(tmp_path / "last.safetensors").state["step"] == 0


@pytest.mark.parametrize("at", range(1, 6))
def test_a_step_that_was_abandoned_is_made_again(tmp_path: Path, at: int):
    """A run stopped at any micro-batch continues bit for bit."""
    config = small.config(accumulate=3, steps=4, eval_every=2)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    small.new_trainer(whole, config).run()
    trainer = small.new_trainer(parts, config)
    plain, made = trainer.data.train.batch, itertools.count(1)

    def batch(indices: np.ndarray) -> dict[str, np.ndarray]:
        if next(made) == at:
            os.kill(os.getpid(), 2)
        return plain(indices)

    trainer.data.train.batch = batch  # type: ignore[method-assign]
    trainer.run()
    assert trainer.step == at // 3
    small.resumed_trainer(parts).run()
    assert small.same_runs(whole, parts)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path: Path, value: float):
    trainer = small.new_trainer(tmp_path)
    plain = trainer.model.loss

    def loss(ids: np.ndarray, targets: np.ndarray, scale: float | None = None) -> np.ndarray:
        good = plain(ids, targets, scale)
        return np.array(value) if trainer.step >= 7 and trainer.model.training else good

    trainer.model.loss = loss  # type: ignore[method-assign]
    with pytest.raises(
        Diverged, match=f"after step 7: the training loss is {value}, .*; a smaller lr .*step 5"
    ):
        trainer.run()
    assert np.isfinite(trainer.model.storage.values).all()
    assert trainer.optimizer.step_count == 7
    assert read(tmp_path / "last.safetensors").state["step"] == 5
    assert small.logged(tmp_path)[-1]["step"] == 7


def test_divergence_from_a_large_learning_rate_is_noticed(tmp_path: Path):
    config = small.config(lr=1e30, min_lr=0.0, warmup=0, clip=0.0)
    with pytest.raises(Diverged, match=r"is (nan|inf)"):
        small.new_trainer(tmp_path, config).run()
    for which in ("best", "last"):
        saved = read(tmp_path / f"{which}.safetensors")
        assert all(np.isfinite(tensor).all() for tensor in saved.tensors.values())


def test_a_gradient_that_is_not_finite_is_noticed(tmp_path: Path):
    trainer = small.new_trainer(tmp_path)
    plain = trainer.model.backward

    def backward() -> None:
        plain()
        trainer.model.storage.grads[3] = math.nan

    trainer.model.backward = backward  # type: ignore[method-assign]
    with pytest.raises(Diverged, match=r"gradient's norm is nan, because the gradient of \S+ "):
        trainer.run()
    assert np.isfinite(trainer.model.storage.values).all()
    assert read(tmp_path / "last.safetensors").state["step"] == 0


def test_without_clipping_the_norm_is_not_logged(tmp_path: Path):
    small.new_trainer(tmp_path, small.config(steps=3, clip=0.0)).run()
    assert {r["norm"] for r in read_log(tmp_path / "log.jsonl") if "loss" in r} == {None}


class FullDisk:
    """`os` on a disk that is full from the n-th save on."""

    def __init__(self, saves: int) -> None:
        self.saves = saves

    def __getattr__(self, name: str):
        return getattr(os, name)

    def open(self, path: Path, *rest: int) -> int:
        self.saves -= str(path).endswith(".safetensors.tmp")
        return os.open(path, *rest)

    def write(self, handle: int, data: memoryview) -> int:
        if self.saves < 0:
            os.write(handle, data[:100])
            raise OSError(28, "No space left on device")
        return os.write(handle, data)


@pytest.mark.parametrize("saves", range(6))
def test_a_full_disk_leaves_the_checkpoints_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saves: int
):
    whole, full = tmp_path / "whole", tmp_path / "full"
    config = small.config(lr=0.01, dropout=0.0)
    small.new_trainer(whole, config).run()
    trainer = small.new_trainer(full, config)
    monkeypatch.setattr(files, "os", FullDisk(saves))
    with pytest.raises(UserError, match=r"cannot save .*\.safetensors \(No space left on device\)"):
        trainer.run()
    monkeypatch.undo()
    names = {path.name for path in full.iterdir() if path.suffix != ".png"}
    due = {name for n, name in enumerate(["best.safetensors", "last.safetensors"]) if saves > n}
    begun = set() if due else {".without-checkpoint"}
    assert names == {"config.json", "tokenizer.json", "log.jsonl", "samples", *due} | begun
    if due:
        small.resumed_trainer(full).run()
        assert small.same_runs(whole, full)
