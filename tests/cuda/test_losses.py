"""The losses on arrays of cupy: the values and gradients of the CPU, in float32 and bfloat16."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from byhand import backend, nn, ops

RNG = np.random.default_rng(0)
X, Y, P = (RNG.standard_normal((6, 5)).astype(np.float32) for _ in range(3))
PROBABILITIES = np.exp(P) / np.exp(P).sum(axis=-1, keepdims=True)
IDS = np.array([0, 4, -100, 2, 1, 4])
WEIGHT = [0.5, 0.0, 2.0, 1.0, 0.3]
LOSSES = [
    (nn.MSELoss, {"half": True}, Y),
    (nn.HuberLoss, {"delta": 0.5}, Y),
    (nn.BCEWithLogitsLoss, {"pos_weight": 2.0}, PROBABILITIES),
    (nn.CrossEntropyLoss, {"label_smoothing": 0.1}, IDS),
    (nn.CrossEntropyLoss, {"weight": WEIGHT}, IDS),
    (nn.CrossEntropyLoss, {"weight": WEIGHT}, PROBABILITIES),
    (nn.NLLLoss, {"weight": WEIGHT}, IDS),
    (nn.InfoNCELoss, {"temperature": 0.5}, Y),
]


def rounded(a: np.ndarray) -> np.ndarray:
    """To bfloat16, as float32; ids as they are."""
    return a if a.dtype == np.int64 else a.astype(backend.bfloat16()).astype(np.float32)


def passes(loss: nn.Module, x: Any, target: Any, dloss: Any) -> list[np.ndarray]:
    """The loss and the gradients, as float32 numpy arrays."""
    value = loss(x, target)
    dx = loss.backward(dloss)
    every = [value, *(dx if isinstance(dx, tuple) else (dx,))]
    assert value.dtype == np.float32  # also of bfloat16
    assert all(a.dtype == x.dtype for a in every[1:])
    return [backend.to_numpy(a).astype(np.float32) for a in every]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("kind", "options", "target"), LOSSES)
def test_a_loss_is_that_of_the_cpu(kind, options, target, dtype, reduction, cupy):
    loss = kind(reduction=reduction, **options)
    dloss = RNG.standard_normal(6 if reduction == "none" else ()).astype(np.float32)
    x, t = rounded(X), rounded(target)
    if reduction == "none" and kind in (nn.MSELoss, nn.HuberLoss, nn.BCEWithLogitsLoss):
        dloss = rounded(Y)
    expected = passes(loss, x, t, np.asarray(dloss))
    storage = backend.bfloat16() if dtype == "bfloat16" else np.dtype(dtype)
    there = [cupy.asarray(a if a.dtype == np.int64 else a.astype(storage)) for a in (x, t)]
    got = passes(loss, *there, cupy.asarray(dloss))
    close = 2e-6 if dtype == "float32" else 0.02
    for mine, other in zip(got, expected, strict=True):
        assert mine.shape == other.shape
        np.testing.assert_allclose(mine, other, atol=close * max(np.abs(other).max(), 0.1))


def test_the_default_gradient_and_numbers_are_put_on_the_device(cupy):
    loss = nn.MSELoss()
    x, t = cupy.asarray(X), cupy.asarray(Y)
    for given, scale in (((), 1.0), ((2.0,), 2.0)):
        loss(x, t)
        dx = loss.backward(*given).get()
        np.testing.assert_allclose(dx, scale * 2 * (X - Y) / X.size, rtol=1e-5)


def test_class_weights_may_be_on_the_device(cupy):
    value = nn.CrossEntropyLoss(cupy.asarray(np.array(WEIGHT)))(cupy.asarray(X), cupy.asarray(IDS))
    assert float(value) == pytest.approx(float(nn.CrossEntropyLoss(WEIGHT)(X, IDS)), rel=1e-6)


def test_log_probabilities_of_targets(cupy):
    y, saved = ops.weighted_cross_entropy.log_probabilities(cupy.asarray(X), cupy.asarray(IDS))
    dy = RNG.standard_normal(6).astype(np.float32)
    dx = ops.weighted_cross_entropy.log_probabilities_backward(cupy.asarray(dy), saved)
    expected, of_cpu = ops.weighted_cross_entropy.log_probabilities(X, IDS)
    np.testing.assert_allclose(y.get(), expected, rtol=1e-5)
    of_cpu = ops.weighted_cross_entropy.log_probabilities_backward(dy, of_cpu)
    np.testing.assert_allclose(dx.get(), of_cpu, rtol=1e-4, atol=1e-6)
