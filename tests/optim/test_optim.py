"""AdamW over the flat buffer, clipping, and the schedule."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from byhand import nn, optim


class TwoLayers(nn.Module):
    def __init__(self):
        rng = np.random.default_rng(1)
        self.first = nn.Linear(5, 7, rng=rng)
        self.norm = nn.LayerNorm(7)
        self.second = nn.Linear(7, 3, rng=rng)


def with_gradients(dtype: str) -> TwoLayers:
    model = TwoLayers().to(dtype=dtype)
    model.arena.grads[...] = np.random.default_rng(2).standard_normal(model.arena.grads.shape)
    return model


@pytest.mark.parametrize("steps", [1, 2, 1000])
def test_adamw_follows_the_formula(steps):
    """Loshchilov & Hutter, 2019, algorithm 2, written out again, per parameter."""
    model = with_gradients("float64")
    lr, (b1, b2), eps, decay = 1e-2, (0.9, 0.95), 1e-8, 0.1
    optimizer = optim.AdamW(model, lr, (b1, b2), eps, decay)
    expected = {name: p.value.copy() for name, p in model.named_parameters()}
    moments = {name: (0.0, 0.0) for name in expected}
    for t in range(1, steps + 1):
        model.arena.grads[...] *= 1.001
        for name, p in model.named_parameters():
            m, v = moments[name]
            m, v = b1 * m + (1 - b1) * p.grad, b2 * v + (1 - b2) * p.grad**2
            moments[name] = m, v
            if p.value.ndim >= 2:
                expected[name] *= 1 - lr * decay
            expected[name] -= lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
        optimizer.step()
    for name, p in model.named_parameters():
        np.testing.assert_allclose(p.value, expected[name], rtol=1e-10, atol=1e-12)


def test_float32_adamw_stays_with_float64():
    fast, truth = with_gradients("float32"), with_gradients("float64")
    truth.arena.values[...] = fast.arena.values
    truth.arena.grads[...] = fast.arena.grads
    a, b = optim.AdamW(fast, 1e-2), optim.AdamW(truth, 1e-2)
    for _ in range(50):
        a.step(clip_norm=0.7)
        b.step(clip_norm=0.7)
    np.testing.assert_allclose(fast.arena.values, truth.arena.values, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_clipping_inside_the_step_equals_clipping_before_it(dtype):
    inside, before = with_gradients(dtype), with_gradients(dtype)
    norm = optim.AdamW(inside).step(clip_norm=0.5)
    other = optim.clip_grad_norm(before, 0.5)
    optim.AdamW(before).step()
    exact = np.linalg.norm(with_gradients("float64").arena.grads)
    assert abs(float(norm) / exact - 1) < 1e-6
    assert float(norm) == float(other)
    np.testing.assert_allclose(inside.arena.values, before.arena.values, rtol=1e-6, atol=1e-8)
    assert abs(np.linalg.norm(before.arena.grads) / 0.5 - 1) < 1e-4


def test_small_gradients_are_not_clipped():
    model = with_gradients("float32")
    grads = model.arena.grads.copy()
    optim.clip_grad_norm(model, 1e6)
    assert np.array_equal(model.arena.grads, grads)


def test_state_round_trips():
    a, b = with_gradients("float32"), with_gradients("float32")
    first, second = optim.AdamW(a), optim.AdamW(b)
    first.step()
    first.step()
    second.load_state_dict(first.state_dict())
    b.load_state_dict(a.state_dict())
    first.step()
    second.step()
    assert np.array_equal(a.arena.values, b.arena.values)
    with pytest.raises(ValueError, match="m must have shape"):
        second.load_state_dict({"m": np.zeros(3), "v": np.zeros(3), "step": 1})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(lr=-1.0), "lr"),
        (dict(lr=float("nan")), "lr"),
        (dict(eps=-1e-8), "eps"),
        (dict(weight_decay=-0.1), "weight_decay"),
        (dict(betas=(0.9, 1.0)), "betas"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        optim.AdamW(TwoLayers(), **settings)


def test_a_moved_model_is_refused():
    model = with_gradients("float32")
    optimizer = optim.AdamW(model)
    model.to(dtype="float64")
    with pytest.raises(RuntimeError, match="was moved"):
        optimizer.step()


def test_warmup_cosine():
    settings = dict(lr=1.0, min_lr=0.1, warmup_steps=10, total_steps=110)
    rates = [optim.warmup_cosine(step, **settings) for step in range(120)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.55)
    assert rates[110] == rates[119] == 0.1
    assert all(a <= b for a, b in pairwise(rates[:10]))
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_schedule_without_warmup_or_room():
    assert optim.warmup_cosine(0, lr=1.0, min_lr=0.0, warmup_steps=0, total_steps=1) == 1.0
    assert optim.warmup_cosine(5, lr=1.0, min_lr=0.2, warmup_steps=0, total_steps=0) == 0.2
