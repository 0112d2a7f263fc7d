"""The mixture of experts: the sum it is, its gradients, its load-balance loss, bits of rows."""

from __future__ import annotations

import re

import numpy as np
import pytest

from byhand import gradcheck, nn
from byhand.nn.experts import balance


def made(seed: int = 0, dtype: str = "float64", **options) -> nn.MixtureOfExperts:
    layer = nn.MixtureOfExperts(6, 9, **{"num_experts": 5, "top_k": 2, **options}).build(seed)
    rng = np.random.default_rng(seed)
    for p in layer.parameters():
        p.value = rng.standard_normal(p.shape).astype(np.float32)
    return layer.to(dtype=dtype)


def x_of(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


class WithAdd(nn.Module):
    def __init__(self, layer: nn.Module, dim: int):
        self.norm, self.layer = nn.RMSNorm(dim), layer

    def forward(self, x):
        return self.layer(self.norm(x), add=x, again=self.norm.again)

    def backward(self, dy):
        return self.norm.backward(self.layer.backward(dy), add=dy)


@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_it_is_the_weighted_sum_of_the_chosen_experts(top_k):
    layer = made(top_k=top_k).inference()
    x, add = x_of(2, 4, 6), x_of(2, 4, 6, seed=2)
    expected = np.empty_like(x)
    for at in np.ndindex(2, 4):
        scores = layer.router.weight.value @ x[at]
        p = np.exp(scores - scores.max())
        best = np.argsort(-p)[:top_k]
        weights = p[best] / p[best].sum()
        expected[at] = sum(
            w * layer.experts[e](x[at][None])[0] for w, e in zip(weights, best, strict=True)
        )
    np.testing.assert_allclose(layer(x, add=add), expected + add, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"top_k": 1}, {"dropout": 0.4}, {"bias": True}], ids=str)
def test_gradients(options):
    for seed in range(20):
        layer = nn.MixtureOfExperts(5, 7, 4, **options)
        gradcheck(WithAdd(layer, 5).build(seed), x_of(2, 3, 5, seed=seed))


def test_an_expert_that_no_row_chose_gets_no_gradient():
    layer = made()
    layer.router.weight.value[4] = 0
    layer.router.weight.value[:4] = np.abs(layer.router.weight.value[:4])
    x = np.abs(x_of(8, 6))
    layer(x)
    layer.backward(np.ones((8, 6)))
    assert layer.routing.counts[4] == 0
    assert not any(p.grad.any() for p in layer.experts[4].parameters())
    assert all(e.down.weight.grad.any() for e in np.array(layer.experts)[layer.routing.counts > 0])


def test_the_choice_among_equal_scores_is_the_first():
    layer = made().inference()
    layer.router.weight.value[...] = 0
    layer(x_of(3, 6))
    np.testing.assert_array_equal(layer.routing.counts, [3, 3, 0, 0, 0])


def test_other_rows_move_no_bit_of_a_row():
    """However many rows its experts get besides."""
    layer = made(dtype="float32").inference()
    x = x_of(40, 6).astype(np.float32)
    before = layer(x).copy()
    for count in (1, 3, 17, 39):
        changed = x.copy()
        changed[:count] = x_of(count, 6, seed=count)
        changed[:count] += 3
        after = layer(changed)
        np.testing.assert_array_equal(after[count:], before[count:])
        assert not np.array_equal(after[:count], before[:count])


def test_the_load_balance_loss_and_its_gradient():
    layers = [made(seed) for seed in range(2)]
    x = x_of(7, 6)

    def loss(weights: list[np.ndarray]) -> float:
        for layer, w in zip(layers, weights, strict=True):
            layer.router.weight.value[...] = w
            layer(x)
            layer.discard_saved()
        return float(balance([layer.routing for layer in layers])[0])

    start = [layer.router.weight.value.copy() for layer in layers]
    loss(start)
    counts = sum(layer.routing.counts for layer in layers) / 14
    means = sum(layer.routing.probabilities for layer in layers) / 14
    assert abs(loss(start) - 5 * float((counts * means).sum())) < 1e-12
    _, gradients = balance([layer.routing for layer in layers])
    rng = np.random.default_rng(3)
    ways = [1e-6 * rng.standard_normal(w.shape) for w in start]
    up = loss([w + d for w, d in zip(start, ways, strict=True)])
    down = loss([w - d for w, d in zip(start, ways, strict=True)])
    loss(start)
    slope = 0.0
    for layer, gradient, way in zip(layers, gradients, ways, strict=True):
        layer.zero_grad()
        layer(x)
        layer.balance_gradient = gradient
        layer.backward(np.zeros((7, 6)))
        slope += float((layer.router.weight.grad * way).sum())
    assert abs((up - down) / 2 - slope) < 1e-6 * abs(slope)


def test_equal_loads_have_the_least_loss():
    layer = made(num_experts=6, top_k=2).inference()
    layer.router.weight.value[...] = np.eye(6)
    layer(20 * (np.eye(6) + np.roll(np.eye(6), 1, axis=1)))
    np.testing.assert_array_equal(layer.routing.counts, [2] * 6)
    assert abs(float(balance([layer.routing])[0]) - 2) < 1e-6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nn.MixtureOfExperts(4, 8, 0), "MixtureOfExperts: num_experts must be at least 1"),
        (lambda: nn.MixtureOfExperts(4, 8, 2, 3), "top_k must be at most num_experts, got 3 and 2"),
        (lambda: nn.MixtureOfExperts(4, 8, 2.0), "num_experts must be a whole number"),
        (lambda: nn.MixtureOfExperts(4, 8, 2, activation="slu"), "did you mean silu?"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        call()
