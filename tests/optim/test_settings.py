"""Every setting of an optimizer, at its default, when it is made, and when it is set between steps,
reaches the update: compared with the formula, in float64 and by the float32 kernels.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

from byhand import nn, optim

DEFAULTS: dict[str, Any] = dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
OTHERS: dict[str, Any] = dict(lr=0.3, betas=(0.5, 0.7), eps=0.2, weight_decay=0.6)
# Each setting changed alone, and each beta.
CHANGES = [
    {},
    *({name: OTHERS[name]} for name in ("lr", "eps", "weight_decay")),
    {"betas": (0.5, 0.999)},
    {"betas": (0.9, 0.7)},
    OTHERS,
]
dtypes = pytest.mark.parametrize("dtype", ["float64", "float32"])


def made(dtype: str) -> nn.Linear:
    model = nn.Linear(5, 7).build(1, dtype=dtype)
    model.bias.value = np.random.default_rng(3).standard_normal(7)
    return model


class Formula:
    """Loshchilov & Hutter, 2019, algorithm 2, in float64; only the weight decays."""

    def __init__(self, model: nn.Linear):
        self.values = {n: p.value.astype(np.float64) for n, p in model.named_parameters()}
        self.m = {n: np.zeros(value.shape) for n, value in self.values.items()}
        self.v = {n: np.zeros(value.shape) for n, value in self.values.items()}
        self.t = 0

    def step(self, grads: dict[str, np.ndarray], settings: dict[str, Any]) -> None:
        self.t += 1
        lr, eps, (b1, b2) = settings["lr"], settings["eps"], settings["betas"]
        for name, g in grads.items():
            self.m[name] = b1 * self.m[name] + (1 - b1) * g
            self.v[name] = b2 * self.v[name] + (1 - b2) * g * g
            decay = settings["weight_decay"] if name == "weight" else 0.0
            root = np.sqrt(self.v[name] / (1 - b2**self.t)) + eps
            self.values[name] *= 1 - lr * decay
            self.values[name] -= lr * self.m[name] / (1 - b1**self.t) / root


def draw_gradients(model: nn.Linear, rng: np.random.Generator) -> dict[str, np.ndarray]:
    for p in model.parameters():
        p.grad = rng.standard_normal(p.shape)
    return {name: p.grad.astype(np.float64) for name, p in model.named_parameters()}


def assert_follows(model: nn.Linear, formula: Formula, dtype: str) -> None:
    close = dict(rtol=1e-11) if dtype == "float64" else dict(rtol=2e-5, atol=2e-6)
    for name, p in model.named_parameters():
        np.testing.assert_allclose(p.value, formula.values[name], **close)


@dtypes
@pytest.mark.parametrize("changed", CHANGES, ids=str)
def test_each_setting_reaches_the_update(changed, dtype):
    model, rng = made(dtype), np.random.default_rng(2)
    formula, optimizer = Formula(model), optim.AdamW(model, **changed)
    for _ in range(4):
        formula.step(draw_gradients(model, rng), DEFAULTS | changed)
        optimizer.step()
    assert_follows(model, formula, dtype)


@pytest.mark.parametrize("name", ["lr", "beta1", "beta2", "eps", "weight_decay"])
def test_each_setting_changes_the_result(name):
    """So that the test above could not pass with a setting that is ignored."""
    results = []
    for factor in (1, 0.5):
        model, rng = made("float64"), np.random.default_rng(2)
        settings = dict(OTHERS)
        if name.startswith("beta"):
            betas = list(settings["betas"])
            betas[int(name[-1]) - 1] *= factor
            settings["betas"] = betas
        else:
            settings[name] *= factor
        optimizer = optim.AdamW(model, **settings)
        for _ in range(4):
            draw_gradients(model, rng)
            optimizer.step()
        results.append(model.storage.values.copy())
    assert not np.allclose(*results, rtol=1e-3)


@dtypes
@pytest.mark.parametrize("name", ["lr", "weight_decay"])
@pytest.mark.parametrize("of", ["optimizer", "group"])
def test_a_setting_between_steps_reaches_the_next_update(name, of, dtype):
    model, rng = made(dtype), np.random.default_rng(2)
    formula, optimizer = Formula(model), optim.AdamW(model, **OTHERS)
    settings = dict(OTHERS)
    for value in (OTHERS[name], 0.02, 0.4, 0.0):
        setattr(optimizer if of == "optimizer" else optimizer.groups[-1], name, value)
        settings[name] = value
        formula.step(draw_gradients(model, rng), settings)
        optimizer.step()
        assert_follows(model, formula, dtype)
        assert getattr(optimizer.groups[-1], name) == value


@dtypes
def test_the_settings_of_a_group_reach_its_parameters_only(dtype):
    model, rng = made(dtype), np.random.default_rng(2)
    weight, rest = Formula(model), Formula(model)
    own = {"lr": 0.05, "weight_decay": 0.9}
    optimizer = optim.AdamW(model, **OTHERS, groups=[{"params": ["weight"], **own}])
    for _ in range(3):
        grads = draw_gradients(model, rng)
        weight.step(grads, OTHERS | own)
        rest.step(grads, OTHERS)
        optimizer.step()
    weight.values["bias"] = rest.values["bias"]
    assert_follows(model, weight, dtype)


@dtypes
@pytest.mark.parametrize("clip_norm", [0.1, 2.0, 1e6])
def test_clipping_reaches_the_update(clip_norm, dtype):
    model, rng = made(dtype), np.random.default_rng(2)
    formula, optimizer = Formula(model), optim.AdamW(model, **OTHERS)
    for _ in range(3):
        grads = draw_gradients(model, rng)
        norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
        factor = min(1.0, clip_norm / (norm + 1e-6))
        formula.step({name: factor * g for name, g in grads.items()}, OTHERS)
        assert float(optimizer.step(clip_norm=clip_norm)) == pytest.approx(norm, rel=1e-5)
    assert_follows(model, formula, dtype)


def test_the_defaults_are_the_documented_ones():
    parameters = inspect.signature(optim.AdamW).parameters
    assert {name: parameters[name].default for name in DEFAULTS} == DEFAULTS
    optimizer = optim.AdamW(made("float32"))
    assert {name: getattr(optimizer, name) for name in DEFAULTS} == DEFAULTS
    assert repr(optimizer) == (
        "AdamW(lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.01) of 2 parameters in "
        "1 groups, after 0 steps"
    )


# --- Wrong settings, and wrong times --------------------------------------------------------------


@pytest.mark.parametrize(
    "betas", [0.9, (0.9,), "ab", (0.9, "x"), None, (0.9, 0.95, 0.9), (0.9, None), (-0.1, 0.9)]
)
def test_wrong_betas_are_named(betas):
    with pytest.raises(ValueError, match=r"^AdamW: betas must be two numbers in \[0, 1\), got"):
        optim.AdamW(made("float32"), betas=betas)


@pytest.mark.parametrize("wrong", ["1", [1.0], np.ones(1), None, True, 0, -1.0, float("nan")])
def test_a_wrong_clip_norm_is_named(wrong):
    model = made("float32")
    optimizer = optim.AdamW(model)
    if wrong is not None:  # no clipping
        with pytest.raises(
            ValueError, match=r"^AdamW\.step: clip_norm must be (a number|positive)"
        ):
            optimizer.step(clip_norm=wrong)
    with pytest.raises(ValueError, match=r"^clip_grad_norm: max_norm must be (a number|positive)"):
        optim.clip_grad_norm(model, wrong)


@pytest.mark.parametrize("given", [1e-3, lambda: 0.0, 1])
def test_what_step_is_given_without_a_name_is_refused(given):
    """PyTorch's takes a closure, and a number there could be meant as a learning rate."""
    for kind in (optim.AdamW, optim.SGD):
        optimizer = kind(made("float32"), lr=0.1)
        before = optimizer.model.storage.values.copy()
        with pytest.raises(
            TypeError, match=rf"^{kind.__name__}.step takes no closure and no learning rate, got"
        ):
            optimizer.step(given)
        assert np.array_equal(optimizer.model.storage.values, before)


@pytest.mark.parametrize("groups", [5, None, {"params": ["weight"]}, "weight"])
def test_groups_that_are_no_list_are_refused(groups):
    with pytest.raises(TypeError, match="SGD: groups must be a list of dicts, got"):
        optim.SGD(nn.Linear(2, 3).build(), groups=groups)
    with pytest.raises(ValueError, match=r"groups\[0\]: params must be a list of names, got 5"):
        optim.SGD(nn.Linear(2, 3).build(), groups=[{"params": 5}])


def test_clipping_takes_a_built_model():
    with pytest.raises(TypeError, match="clip_grad_norm takes the model itself, got list"):
        optim.clip_grad_norm(nn.Linear(2, 3).build().parameters(), 1.0)
    with pytest.raises(RuntimeError, match="clip_grad_norm: the model is not built"):
        optim.clip_grad_norm(nn.Linear(2, 3), 1.0)


def test_clipping_a_part_is_refused():
    """Its gradients lie among those of the whole model."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).build()
    with pytest.raises(ValueError, match="clip_grad_norm: this module is a part of a larger model"):
        optim.clip_grad_norm(model[0], 1.0)


def test_parameters_are_not_a_model():
    model = made("float32")
    for wrong in (model.parameters(), model.named_parameters(), iter(model.parameters())):
        with pytest.raises(
            TypeError, match=r"takes the model itself .*: AdamW\(model, lr=\.\.\.\)"
        ):
            optim.AdamW(wrong)


def test_a_step_in_inference_mode_is_refused():
    model = made("float32").inference()
    optimizer = optim.AdamW(model)
    with pytest.raises(RuntimeError, match=r"in inference mode, .*: call model\.train\(\) before"):
        optimizer.step()
    optimizer.model.eval()
    optimizer.step()
    with model.in_inference(), pytest.raises(RuntimeError, match="in inference mode"):
        optimizer.step()


def test_an_optimizer_zeroes_the_gradients_of_its_model():
    model = made("float32")
    draw_gradients(model, np.random.default_rng(0))
    optim.AdamW(model).zero_grad()
    assert not model.storage.grads.any()
