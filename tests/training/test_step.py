"""A training step: its loss is the mean over all counted targets of all micro-batches."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from byhand import GPT, MLP, GPTConfig, MLPConfig, optim
from byhand.tasks import Classification, LanguageModel
from byhand.training import Diverged, EagerStep
from byhand.training.step import Kept, MeanScale

CONFIG = GPTConfig(11, context_size=6, embedding_dim=8, num_heads=2, num_layers=2)


def batches(ignored: tuple[int, ...]) -> list[dict[str, np.ndarray]]:
    """Micro-batches of shape (2, 6); `ignored` gives how many targets of each are ignored."""
    rng = np.random.default_rng(3)
    made = []
    for n in ignored:
        ids, targets = rng.integers(0, 11, (2, 2, 6))
        targets.reshape(-1)[:n] = -100
        made.append({"ids": ids, "targets": targets})
    return made


def gradients(task: LanguageModel, step: list[dict[str, np.ndarray]]) -> np.ndarray:
    model = task.model
    EagerStep(task, optim.AdamW(model))(step)
    return model.storage.grads.copy()


@pytest.mark.parametrize("ignored", [(0, 0), (11, 0), (5, 12, 1)])
def test_micro_batches_equal_one_larger_batch_for_any_numbers_of_targets(ignored):
    """The extreme case: 1 target of 12 counts in one batch, 12 in the other."""
    apart = batches(ignored)
    whole = {name: np.concatenate([b[name] for b in apart]) for name in ("ids", "targets")}
    model = GPT(CONFIG, seed=1).to(dtype="float64")
    task = LanguageModel(model)
    found = gradients(task, apart)
    expected = gradients(LanguageModel(GPT(CONFIG, seed=1).to(dtype="float64")), [whole])
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-14)
    assert np.abs(found).max() > 0.01


def test_a_mean_of_batch_means_has_another_gradient():
    apart = batches((11, 0))
    model = GPT(CONFIG, seed=1).to(dtype="float64")
    found = gradients(LanguageModel(model), apart)
    model = GPT(CONFIG, seed=1).to(dtype="float64")
    for batch in apart:
        model.loss(batch["ids"], batch["targets"])
        model.backward()
    wrong = model.storage.grads / 2
    assert np.linalg.norm(wrong - found) > 0.5 * np.linalg.norm(found)


def test_the_loss_of_a_step_is_the_mean_over_all_counted_targets():
    apart = batches((7, 0))
    model = GPT(CONFIG, seed=1)
    task = LanguageModel(model)
    with model.no_save():
        sums = [float(model.loss(b["ids"], b["targets"], 1.0)) for b in apart]
    step = EagerStep(task, optim.AdamW(model), clip_norm=math.inf)
    step(apart, lr=0.25)
    ((loss, norm),) = step.read()
    assert loss == pytest.approx(sum(sums) / (5 + 12), rel=1e-6)
    assert norm == pytest.approx(np.linalg.norm(model.storage.grads), rel=1e-6)
    assert step.optimizer.lr == 0.25
    assert step.read() == []
    assert step.units == 17


def test_a_step_without_counted_targets_only_decays_the_weights():
    model = GPT(CONFIG, seed=1)
    before = model.storage.values.copy()
    step = EagerStep(LanguageModel(model), optim.AdamW(model, weight_decay=0.0), math.inf)
    step(batches((12, 12)))
    assert step.read() == [(0.0, 0.0)]
    assert np.array_equal(model.storage.values, before)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_step_that_is_not_finite_changes_nothing(value):
    model = MLP(MLPConfig(3, 4, (5,)), seed=1)
    before = model.storage.values.copy()
    step = EagerStep(Classification(model), optim.AdamW(model), clip_norm=1.0)
    batch: dict[str, Any] = {"x": np.ones((2, 3), np.float32), "labels": np.array([0, 3])}
    batch["x"][1, 1] = value
    step([batch])
    with pytest.raises(Diverged, match=r"the step: the training loss is nan, because x of a batch"):
        step.read()
    assert np.array_equal(model.storage.values, before)


def test_unequal_micro_batches_weigh_by_their_examples():
    """Micro-batches of unequal sizes: each example has the same weight."""
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((7, 3)).astype(np.float32), rng.integers(0, 4, 7)
    found = []
    for cuts in ([0, 7], [0, 1, 3, 7]):
        model = MLP(MLPConfig(3, 4, (5,)), seed=1).to(dtype="float64")
        parts = [
            {"x": x[a:b].astype(float), "labels": labels[a:b]} for a, b in itertools.pairwise(cuts)
        ]
        step = EagerStep(Classification(model), optim.AdamW(model), clip_norm=math.inf)
        step(parts)
        found.append((*step.read()[0], model.storage.grads.copy()))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)
    np.testing.assert_allclose(found[0][2], found[1][2], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("counts", [(5,), (4, 4, 4), (3, 5, 1), (0, 0, 7), (2, 0), (0, 0)])
def test_the_scale_of_every_batch_becomes_that_of_the_mean(counts):
    """The sum of the scaled and corrected parts is the sum of all parts over all units."""
    scale, total = MeanScale(len(counts)), 0.0
    for i, count in enumerate(counts):
        factor = scale.count(count)
        assert factor == 1 or i + 1 == len(counts)
        total = total * factor + 10 * count * scale.value
    assert total == pytest.approx(10.0 if sum(counts) else 0.0, rel=1e-12)
    assert scale.units == sum(counts)
    if len(set(counts)) == 1 and sum(counts):
        assert scale.value == 1 / sum(counts)


def test_only_the_last_batches_of_a_step_are_kept():
    kept = Kept()
    for i in range(100):
        kept.add({"i": np.array(i)}, 3 * i)
    assert [int(batch["i"]) for batch in kept.batches] == list(range(84, 100))
    assert kept.masks == 3 * 84


def test_the_batch_whose_loss_is_not_finite_is_examined_among_many():
    """The first one: later batches, which are finite, do not push it out."""
    model = MLP(MLPConfig(3, 4, (5,)), seed=1)
    parts = [{"x": np.ones((2, 3), np.float32), "labels": np.array([0, 3])} for _ in range(60)]
    parts[20]["x"][1, 1] = math.nan
    step = EagerStep(Classification(model), optim.AdamW(model), clip_norm=1.0)
    step(parts)
    with pytest.raises(Diverged, match="the training loss is nan, because x of a batch"):
        step.read()
