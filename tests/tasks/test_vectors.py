"""The tasks that learn from vectors: `Regression` and `Classification`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from byhand import MLP, MLPConfig, data, gradcheck, nn, optim, runs
from byhand.nn.gradcheck import GradcheckError
from byhand.runs import RunConfig, Table
from byhand.tasks import Classification, Regression
from byhand.training import Diverged, Trainer, TrainingSettings, evaluate

F32 = np.float32


def table(seed: int = 0, rows: int = 90) -> dict[str, np.ndarray]:
    """Three features; a smooth function of them with two values, and three classes."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, 3), dtype=F32)
    targets = np.stack([np.sin(x[:, 0]) + x[:, 1], x[:, 2] ** 2], axis=1)
    return {"x": x, "targets": targets, "labels": (targets > [[0, 1]]).sum(1)}


NAMES: dict[Any, str] = {Regression: "targets", Classification: "labels"}
CONFIGS = {
    Regression: MLPConfig(num_features=3, num_outputs=2, hidden_sizes=(20,), activation="tanh"),
    Classification: MLPConfig(num_features=3, num_classes=3, hidden_sizes=(20,)),
}


def batch_of(kind: Any, rows: int = 90) -> dict[str, np.ndarray]:
    arrays = table(rows=rows)
    return {"x": arrays["x"], NAMES[kind]: arrays[NAMES[kind]]}


class Whole(nn.Module):
    """A task as a module whose loss gradcheck differentiates."""

    def __init__(self, kind: Any):
        self.kind = kind
        self.model = MLP(CONFIGS[kind], seed=3)

    def loss(self, x: np.ndarray, wanted: np.ndarray) -> Any:
        self.task = self.kind(self.model)
        return self.task.loss({"x": x, NAMES[self.kind]: wanted}, 0.3)

    def backward(self) -> None:
        self.task.backward()


@pytest.mark.parametrize("kind", NAMES)
def test_the_gradients_of_the_whole(kind: Any):
    gradcheck(Whole(kind), *batch_of(kind, rows=7).values())


def test_gradcheck_finds_a_wrong_factor(monkeypatch: pytest.MonkeyPatch):
    """The derivative of a square without its 2."""
    right = Regression.backward

    def wrong(task: Regression) -> None:
        backward, saved, scale = task._saved
        task._saved = backward, saved, scale / 2
        right(task)

    monkeypatch.setattr(Regression, "backward", wrong)
    with pytest.raises(GradcheckError, match="is off by"):
        gradcheck(Whole(Regression), *batch_of(Regression, rows=7).values())


@pytest.mark.parametrize("kind", NAMES)
def test_the_loss_falls(kind: Any, tmp_path: Path):
    batch = batch_of(kind, rows=600)
    learned = data.ArrayDataset(**{name: array[:500] for name, array in batch.items()})
    held_out = {name: array[500:] for name, array in batch.items()}
    model = MLP(CONFIGS[kind], seed=0)
    settings = TrainingSettings(steps=400, batch_size=20, lr=0.02, eval_every=400, weight_decay=0.0)
    run = runs.Run(tmp_path)
    described = Table.of("made", **batch)
    name = kind.__name__.lower()
    run.create(RunConfig("mlp", CONFIGS[kind], settings, described, task=name))
    trainer = Trainer(
        kind(model),
        data.Splits(learned, lambda: [held_out]),
        data.EpochSampler(500, 20),
        optim.AdamW(model, lr=0.02, weight_decay=0.0),
        optim.Constant(0.02),
        settings,
        run,
    )
    trainer.run()
    records = [r for r in runs.log.read_log(run.log_path) if "validation_loss" in r]
    first, last = (r["validation_loss"] for r in records)
    assert last < 0.35 * first
    loaded = runs.load(tmp_path)
    again = evaluate(kind(loaded), [held_out])
    assert again is not None
    assert again["loss"] == pytest.approx(min(first, last), rel=1e-5)


def test_the_mean_squared_error_is_pytorchs():
    torch = pytest.importorskip("torch")
    batch = batch_of(Regression)
    task = Regression(MLP(CONFIGS[Regression], seed=2))
    y = task.model(batch["x"])
    task.model.discard_saved()
    assert task.count(batch) == 90
    loss = task.loss(batch, 1 / 90)
    assert (loss.shape, loss.dtype) == ((), F32)
    theirs = torch.from_numpy(y).requires_grad_()
    expected = torch.nn.functional.mse_loss(theirs, torch.from_numpy(batch["targets"]))
    assert float(loss) == pytest.approx(expected.item(), rel=1e-6)
    expected.backward()
    task.backward()
    task.model.zero_grad()
    task.model(batch["x"])
    grads = task.model.storage.grads
    task.model.backward(theirs.grad.numpy())
    wanted = grads.copy()
    task.model.zero_grad()
    task.loss(batch, np.array(1 / 90, F32))
    task.backward()
    np.testing.assert_allclose(task.model.storage.grads, wanted, rtol=1e-5, atol=1e-7)


def test_micro_batches_add_up():
    batch = batch_of(Regression)
    grads = []
    for sizes in ([90], [20, 70]):
        task = Regression(MLP(CONFIGS[Regression], seed=2))
        start = 0
        for size in sizes:
            part = {name: array[start : start + size] for name, array in batch.items()}
            task.loss(part, 1 / 90)
            task.backward()
            start += size
        grads.append(task.model.storage.grads.copy())
    np.testing.assert_allclose(*grads, rtol=1e-4, atol=1e-6)


X = np.zeros((4, 3), F32)


@pytest.mark.parametrize(
    ("targets", "error", "words"),
    [
        (np.zeros((3, 2), F32), ValueError, r"targets must have shape \(4, ...\), got \(3, 2\)"),
        (np.zeros((4, 2), np.int64), TypeError, r"real numbers, got int64: use targets.astype"),
        (np.full((4, 2), np.nan, F32), ValueError, r"targets\[0, 0\] = nan is not a finite number"),
        (np.float32([[0, 0], [0, 0], [0, 0], [0, np.inf]]), ValueError, r"targets\[3, 1\] = inf"),
    ],
)
def test_wrong_targets_are_named_by_the_check(targets: Any, error: Any, words: str):
    with pytest.raises(error, match=words):
        Regression(MLP(CONFIGS[Regression])).check({"x": X, "targets": targets})


@pytest.mark.parametrize(
    ("targets", "error", "words"),
    [
        (np.zeros((4,), F32), ValueError, r"targets must have shape \(4, 2\), got \(4,\)"),
        (np.zeros((4, 1), F32), ValueError, r"targets must have shape \(4, 2\), got \(4, 1\)"),
        (np.zeros((4, 2)), TypeError, r"targets must be float32, .* use targets.astype"),
    ],
)
def test_targets_unlike_the_output_are_named_by_the_loss(targets: Any, error: Any, words: str):
    task = Regression(MLP(CONFIGS[Regression], seed=0))
    with pytest.raises(error, match=words):
        task.loss({"x": X, "targets": targets}, 1.0)
    task.model.zero_grad()  # nothing waits for a backward pass
    with pytest.raises(RuntimeError, match="without a loss before it"):
        task.backward()


def test_targets_changed_after_the_loss_change_no_gradient():
    batch = batch_of(Regression)
    grads = []
    for change in (False, True):
        task = Regression(MLP(CONFIGS[Regression], seed=1))
        mine = {name: array.copy() for name, array in batch.items()}
        task.loss(mine, 0.5)
        if change:
            for array in mine.values():
                array[...] = 1
        task.backward()
        grads.append(task.model.storage.grads.copy())
    assert np.array_equal(*grads)


X, LABELS = np.ones((4, 3), F32), np.array([0, 1, 2, 1])
CLASSES = Classification(MLP(CONFIGS[Classification]))
NUMBERS = Regression(MLP(CONFIGS[Regression]))
WRONG_BATCHES = [
    (CLASSES, (X, LABELS), "Classification: a batch must be a dict of arrays, {"),
    (CLASSES, {"x": X, "y": LABELS}, "Classification: the batch must have 'labels', and has x, y"),
    (CLASSES, {"x": X, "labels": [0, 1, 2, 1]}, "Classification: labels must be an array, got lis"),
    (CLASSES, {"x": X, "labels": np.array(1)}, "Classification: labels must have shape (B, ...), "),
    (CLASSES, {"x": X, "labels": LABELS + 1}, "Classification: labels[2] = 3 is outside the class"),
    (CLASSES, {"x": X, "labels": LABELS * 0 - 100}, "Classification: labels[0] = -100 is outside"),
    (CLASSES, {"x": X, "labels": LABELS[:3]}, "Classification: labels must have shape (4,), got "),
    (CLASSES, {"x": X, "labels": LABELS.astype("i4")}, "int32: use labels.astype(np.int64)"),
    (NUMBERS, {"x": X}, "Regression: the batch must have 'targets', and has x"),
    (NUMBERS, {"x": X, "targets": None}, "Regression: targets must be an array, got NoneType"),
    (NUMBERS, {"x": X, "targets": X[:3, :2]}, "Regression: targets must have shape (4, "),
]


@pytest.mark.parametrize(("task", "batch", "sentence"), WRONG_BATCHES)
def test_what_is_wrong_with_a_batch_is_named(task: Any, batch: Any, sentence: str):
    """Also without ``check``: by the loss of a loop of one's own, and by ``evaluate``."""
    for call in (task.check, lambda b: task.loss(b, 1.0), lambda b: evaluate(task, [b])):
        with pytest.raises((TypeError, ValueError, IndexError)) as caught:
            call(batch)
        assert sentence in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not task.model.waiting()


@pytest.mark.parametrize("kind", NAMES)
def test_a_task_takes_tensors(kind: Any):
    torch = pytest.importorskip("torch")
    batch = batch_of(kind, rows=7)
    tensors = {name: torch.tensor(array) for name, array in batch.items()}
    task = kind(MLP(CONFIGS[kind]))
    task.check(tensors)
    assert evaluate(task, [tensors]) == evaluate(task, [batch])
    assert task.loss(tensors, 0.5) == task.loss(batch, 0.5)


def test_a_task_takes_a_model():
    with pytest.raises(TypeError, match="Regression takes a model, got type"):
        Regression(MLP)


def trainer_of(arrays: dict[str, np.ndarray], **changes: Any) -> Trainer:
    model = MLP(CONFIGS[Classification])
    rows = data.ArrayDataset(**arrays)
    settings = TrainingSettings(steps=2, batch_size=9, eval_every=1, warmup=0)
    given = {
        "task": Classification(model),
        "data": data.Splits(rows, lambda: [rows.batch(np.arange(20))]),
        "sampler": data.EpochSampler(len(rows), 9),
        "optimizer": optim.AdamW(model),
        "schedule": optim.Constant(0.01),
        "settings": settings,
    }
    return Trainer(**{**given, **changes})


def test_nan_in_the_data_is_named_and_not_blamed_on_the_learning_rate():
    batch = batch_of(Classification, rows=20)
    batch["x"][4, 1] = np.nan
    with pytest.raises(Diverged) as caught:
        trainer_of(batch).run()
    assert "because x of a batch is not finite (NaN in 1 of 60 numbers); no ch" in str(caught.value)
    batch["x"][4:6] = [[3e38] * 3, [-3e38] * 3]
    with pytest.raises(Diverged, match=r"is not finite .* though all weights are; a smaller lr"):
        trainer_of(batch).run()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"schedule": 0.1},
            "Trainer: schedule must be a function of the step, such as optim",
        ),
        (
            {"schedule": lambda n: None},
            "Trainer: what schedule(step) returns must be a number",
        ),
        ({"optimizer": None}, "Trainer: optimizer must be a Optimizer, got None"),
        ({"task": MLP}, "Trainer: task must be a Task, got <class"),
    ],
)
def test_what_a_trainer_cannot_use_is_named(changes: dict[str, Any], sentence: str):
    with pytest.raises((TypeError, ValueError)) as caught:
        trainer_of(batch_of(Classification, rows=20), **changes).run()
    assert sentence in str(caught.value)


def test_validation_batches_that_can_be_read_once_only_are_refused():
    batch = batch_of(Classification, rows=20)
    with pytest.raises(TypeError, match="Splits: validation must be a function that gives the bat"):
        data.Splits(data.ArrayDataset(**batch), [batch])
    once = iter([batch])
    splits = data.Splits(data.ArrayDataset(**batch), lambda: once)
    with pytest.raises(ValueError, match=r"data\.validation\(\) gives no batches, though it gave"):
        trainer_of(batch, data=splits).run()
