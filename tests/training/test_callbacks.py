"""The events that a trainer reports, and training without a run's folder."""

from __future__ import annotations

import numpy as np
import pytest

from byhand import MLP, MLPConfig, optim
from byhand.data import ArrayDataset, EpochSampler
from byhand.data.splits import Splits
from byhand.runs import Run
from byhand.tasks import Classification
from byhand.training import Callback, Trainer, TrainingSettings


class Written(Callback):
    def __init__(self):
        self.events = []

    def on_load(self, trainer, batch):
        self.events.append(f"load {len(batch['labels'])}")

    def on_forward(self, trainer):
        self.events.append("forward")

    def on_loss(self, trainer, loss):
        assert loss > 0
        self.events.append("loss")

    def on_backward(self, trainer):
        assert trainer.model.storage.grads.any()
        self.events.append("backward")

    def on_step(self, trainer, step, loss, norm):
        assert trainer.step >= step
        self.events.append(f"step {step}")

    def on_repeat(self, trainer, step):
        self.events.append(f"repeat {step}")

    def on_evaluate(self, trainer, step, metrics):
        self.events.append(f"evaluate {step} {', '.join(metrics)}")


def made(steps: int, accumulate: int = 1, callbacks=(), every=100, validate=True, dropout=0.0):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 2)).astype(np.float32)
    labels = (x[:, 0] * x[:, 1] > 0).astype(np.int64)
    data = ArrayDataset(x=x, labels=labels)
    model = MLP(MLPConfig(2, 2, (16,), dropout), seed=1)
    splits = Splits(data, (lambda: [data.batch(np.arange(50))]) if validate else None)
    settings = TrainingSettings(
        steps=steps, accumulate=accumulate, lr=0.03, warmup=0, eval_every=every, weight_decay=0.0
    )
    return Trainer(
        Classification(model),
        splits,
        EpochSampler(50, 20, seed=2),
        optim.AdamW(model, lr=0.03, weight_decay=0.0),
        optim.Constant(0.03),
        settings,
        callbacks=callbacks,
    )


def test_the_six_events_of_a_step_come_in_their_order():
    written = Written()
    made(2, callbacks=[written], every=1).run()
    step = ["load 20", "forward", "loss", "backward"]
    assert written.events == [
        "evaluate 0 loss, accuracy, f1", *step, "step 1", "repeat 1",
        "evaluate 1 loss, accuracy, f1", *step, "step 2", "repeat 2",
        "evaluate 2 loss, accuracy, f1",
    ]  # fmt: skip


def test_the_events_of_a_batch_come_for_every_micro_batch():
    written = Written()
    made(1, accumulate=3, callbacks=[written], validate=False).run()
    assert written.events == [
        "load 20", "forward", "loss", "backward",
        "load 20", "forward", "loss", "backward",
        "load 10", "forward", "loss", "backward",
        "step 1", "repeat 1",
    ]  # fmt: skip


def test_training_without_a_run_writes_nothing_and_keeps_its_history(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = made(200, every=100)
    assert trainer.run() is None
    assert list(tmp_path.iterdir()) == []
    losses = [record["loss"] for record in trainer.history if "loss" in record]
    assert len(losses) == 200
    assert np.mean(losses[-10:]) < 0.3 * np.mean(losses[:10])
    evaluations = [r for r in trainer.history if "validation_loss" in r]
    assert [r["step"] for r in evaluations] == [0, 100, 200]
    assert evaluations[-1]["validation_accuracy"] > 0.95
    assert trainer.best_step == 200


def test_the_same_loop_in_twelve_lines():
    """What the trainer does, written by hand, gives the same weights."""
    trainer = made(5, validate=False)
    trainer.run()
    by_hand = made(5, validate=False)
    task, optimizer = by_hand.task, by_hand.optimizer
    for step in range(5):
        batch = by_hand.data.train.batch(next(by_hand.sampler))
        task.model.zero_grad()
        task.loss(batch, 1 / task.count(batch))
        task.backward()
        optimizer.lr = by_hand.schedule(step)
        optimizer.step(clip_norm=1.0)
    assert np.array_equal(trainer.model.storage.values, task.model.storage.values)


def test_gradients_add_up_where_they_are_not_zeroed():
    by_hand = made(1)
    task = by_hand.task
    batch = by_hand.data.train.batch(np.arange(5))
    task.loss(batch, 0.2)
    task.backward()
    once = task.model.storage.grads.copy()
    task.loss(batch, 0.2)
    task.backward()
    np.testing.assert_allclose(task.model.storage.grads, 2 * once, rtol=1e-5)
    task.model.zero_grad()
    assert not task.model.storage.grads.any()


@pytest.mark.parametrize("bad", [5, -1])
def test_a_label_outside_the_classes_is_named(bad):
    trainer = made(1)
    batch = trainer.data.train.batch(np.arange(3))
    batch["labels"][1] = bad
    with pytest.raises(IndexError, match=rf"labels\[1\] = {bad} is outside the classes 0..1"):
        trainer.task.check(batch)


@pytest.mark.parametrize(
    "event", ["on_load", "on_forward", "on_loss", "on_backward", "on_step", "on_evaluate"]
)
def test_after_an_error_in_a_callback_the_next_run_goes_on_bit_for_bit(event):
    class Fails(Callback):
        calls = 0

    def fail(self, *args):
        Fails.calls += 1
        if Fails.calls == 4:
            raise ZeroDivisionError

    setattr(Fails, event, fail)
    plain, trainer = [made(6, 2, callbacks, every=1, dropout=0.3) for callbacks in ((), [Fails()])]
    plain.run()
    with pytest.raises(ZeroDivisionError):
        trainer.run()
    assert trainer.step < 6
    trainer.run()
    assert np.array_equal(trainer.model.storage.values, plain.model.storage.values)
    assert [r["step"] for r in trainer.history] == [r["step"] for r in plain.history]


def test_an_optimizer_of_another_model_is_refused():
    trainer, other = made(1), made(1)
    with pytest.raises(ValueError, match="the optimizer is of another model than the task"):
        Trainer(
            trainer.task,
            trainer.data,
            trainer.sampler,
            other.optimizer,
            trainer.schedule,
            trainer.settings,
        )


def test_an_uneven_epoch_on_a_gpu_is_refused_at_once(monkeypatch):
    trainer = made(1)
    parts = (trainer.optimizer, trainer.schedule, trainer.settings)
    monkeypatch.setattr("byhand.training.trainer.backend.is_cupy", lambda array: True)
    with pytest.raises(
        ValueError, match=r"50 items in batches of 20 the last one has 10.*drop_last"
    ):
        Trainer(trainer.task, trainer.data, trainer.sampler, *parts)
    monkeypatch.setattr("byhand.training.trainer.GraphStep", lambda *args: None)
    for sampler in (EpochSampler(50, 20, drop_last=True), EpochSampler(50, 25)):
        Trainer(trainer.task, trainer.data, sampler, *parts)


def test_a_run_that_was_not_created_is_refused(tmp_path):
    trainer = made(1)
    trainer.run_folder = Run(tmp_path / "new")
    with pytest.raises(ValueError, match=r"the run in .*new has no configuration: call its create"):
        trainer.run()
    assert not (tmp_path / "new").exists()


def test_a_backward_pass_needs_a_loss():
    with pytest.raises(RuntimeError, match="backward was called without a loss"):
        made(1).task.backward()
