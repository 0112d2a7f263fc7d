"""GPT's loss, which also computes the gradient of the head."""

from __future__ import annotations

import numpy as np
import pytest

from byhand import GPT, GPTConfig, _host, ops
from tests.models.test_gpt import batch, make, relative_error


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_loss_equals_that_computed_from_the_logits(dtype, precision):
    """With gradients and without, and for every scale."""
    model = make(dtype=dtype)
    model.precision = precision
    ids, targets = batch()
    targets[0, :3] = -100
    with model.no_save():
        expected, _ = ops.cross_entropy.forward(model(ids), targets)
        evaluated = float(model.loss(ids, targets))
    trained = float(model.loss(ids, targets))
    scaled = float(model.loss(ids, targets, 0.25 / (targets.size - 3)))
    assert evaluated == trained
    for loss in (trained, 4 * scaled):
        assert abs(loss - expected) < 4 * np.finfo(dtype).eps * expected


@pytest.mark.parametrize("tie_weights", [True, False])
def test_the_gradient_of_the_loss_equals_that_through_the_logits(tie_weights):
    """``backward`` after ``loss`` adds what ``backward_logits`` adds, for any scale."""
    model = make(tie_weights=tie_weights)
    ids, targets = batch()
    _, saved = ops.cross_entropy.forward(model(ids), targets)
    model.backward_logits(ops.cross_entropy.backward(-0.5, saved))
    expected = model.storage.grads.copy()
    model.zero_grad()
    model.loss(ids, targets, -0.5 / targets.size)
    model.backward()
    assert relative_error(model.storage.grads, expected) < 1e-12


def test_a_loss_that_saves_nothing_adds_nothing():
    model = make(dtype="float32")
    with model.no_save():
        model.loss(*batch())
    model.inference()
    model.loss(*batch())
    assert not model.storage.grads.any()
    with pytest.raises(RuntimeError, match="keep nothing"):
        model.backward()


def test_a_loss_without_a_backward_pass_can_be_undone():
    """The head's gradient is already added; zero_grad is refused until discard_saved."""
    model = make(dtype="float32")
    model.loss(*batch())
    assert model.head.weight.grad.any()
    with pytest.raises(RuntimeError, match="had no backward pass"):
        model.zero_grad()
    model.discard_saved()
    model.zero_grad()
    assert not model.storage.grads.any()


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_the_logits_of_a_batch_never_exist_at_once(training):
    V, rows = 20_000, 8 * 512
    model = GPT(GPTConfig(V, 512, 8, 1, 1), seed=0)
    if not training:
        model.inference()
    ids = np.random.default_rng(0).integers(0, V, (2, 8, 512))

    def step() -> None:
        model.loss(ids[0], ids[1])
        if training:
            model.backward()

    step()
    before = _host.pool_stats()["in_use"]
    _host.pool_reset_peak()
    step()
    assert _host.pool_stats()["peak"] - before < 4 * rows * V / 2
