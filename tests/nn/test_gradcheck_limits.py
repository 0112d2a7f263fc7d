"""gradcheck accuses no right gradient, overlooks no wrong one, and leaves the module as it was."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from byhand import GPT, MLP, GPTConfig, MLPConfig, nn
from byhand.nn import init
from byhand.nn.gradcheck import GradcheckError, GradcheckReport, gradcheck

X = np.random.default_rng(0).standard_normal((4, 3))


# --- Right gradients are never accused ------------------------------------------------------------


@pytest.mark.parametrize("seeds", [range(i, i + 20) for i in range(0, 100, 20)], ids=str)
def test_a_hundred_small_gpts(seeds):
    """As they start, not randomised: their derivatives are small beside those of the third order,
    which is what the error of a central difference consists of.
    """
    for seed in seeds:
        ids, targets = np.random.default_rng(seed).integers(0, 7, (2, 2, 3))
        gradcheck(GPT(GPTConfig(7, 3, 4, 2, 1), seed=seed), ids, targets, directions=1)


@pytest.mark.parametrize("seed", range(5))
def test_the_gpt_of_the_readme(seed):
    ids, targets = np.random.default_rng(seed).integers(0, 17, (2, 4, 7))
    gradcheck(GPT(GPTConfig(17, 9, 12, 3, 2), seed=seed), ids, targets)


def test_a_hundred_mlps():
    for seed in range(100):
        x = np.random.default_rng(seed).standard_normal((3, 4))
        gradcheck(MLP(MLPConfig(4, 3, (5,), dropout=0.2), seed=seed), x, directions=1)


# --- The module is left as it was -----------------------------------------------------------------


@pytest.mark.parametrize("mode", ["train", "eval", "inference"])
def test_the_module_keeps_its_mode_and_its_masks(mode):
    ids, targets = np.random.default_rng(1).integers(0, 7, (2, 2, 3))
    model = getattr(GPT(GPTConfig(7, 3, 4, 2, 1, dropout=0.3), seed=1), mode)()
    for _ in range(2):
        model.generator.next()
    masks, values = model.generator.state_dict(), model.storage.values.copy()
    modes = [(m.training, m._saving) for _, m in model.named_modules()]
    gradcheck(model, ids, targets, directions=1)
    assert model.generator.state_dict() == masks == {"seed": 1, "count": 2}
    assert [(m.training, m._saving) for _, m in model.named_modules()] == modes
    assert np.array_equal(model.storage.values, values)
    assert model.storage.values.dtype == np.float32
    assert not model.storage.grads.any()


class Modes(nn.Module):
    """Its backward pass is right in one mode only."""

    def __init__(self, right_in_training: bool):
        self.w = nn.Parameter((3,), init.ones)
        self.right_in_training = right_in_training

    def forward(self, x):
        self.push((x, self.training))
        return x * self.w.compute_value

    def backward(self, dy):
        x, training = self.pop()
        factor = 1 if training == self.right_in_training else 2
        self.w.grad += factor * (dy * x).sum(0)
        return dy * self.w.value


@pytest.mark.parametrize("right_in_training", [True, False])
def test_it_checks_the_mode_that_the_module_is_in(right_in_training):
    module = Modes(right_in_training).build()
    for mode, training in (("train", True), ("eval", False), ("inference", False)):
        getattr(module, mode)()
        if training == right_in_training:
            gradcheck(module, X)
        else:
            with pytest.raises(GradcheckError, match="the gradient of w is off by"):
                gradcheck(module, X)
    module.train()
    with module.in_inference():
        if right_in_training:
            with pytest.raises(GradcheckError):
                gradcheck(module, X)
        else:
            gradcheck(module, X)


def test_a_module_in_the_middle_of_a_pass_is_left_there():
    layer = nn.Linear(3, 2).build()
    layer(X.astype(np.float32))
    gradcheck(layer, X)
    layer.backward(np.ones((4, 2), np.float32))


# --- NaN ------------------------------------------------------------------------------------------


class Scale(nn.Module):
    def __init__(self, size: float = 1.0):
        self.w = nn.Parameter((3,), init.ones)
        self.v = nn.Parameter((3,), init.ones)
        self.size = size
        self.factor = {"w": 1.0, "v": 1.0, "x": 1.0}

    def forward(self, x):
        self.push(x)
        return self.size * x * self.w.compute_value * self.v.compute_value

    def backward(self, dy):
        x, w, v = self.pop(), self.w.value, self.v.value
        self.w.grad += self.factor["w"] * self.size * (dy * x * v).sum(0)
        self.v.grad += self.factor["v"] * self.size * (dy * x * w).sum(0)
        return self.factor["x"] * self.size * dy * w * v


@pytest.mark.filterwarnings("ignore:invalid value encountered in reduce")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("key", "name"), [("w", "w"), ("v", "v"), ("x", "input 0")])
def test_a_gradient_that_is_not_finite_is_off(key, name, bad):
    module = Scale()
    module.factor[key] = bad
    with pytest.raises(GradcheckError, match=f"the gradient of {name} is off by (nan|inf)"):
        gradcheck(module, X)


class Fails(Scale):
    """The n-th evaluation that saves nothing, which is one of the differences, gives NaN."""

    at = 0
    evaluations = 0

    def forward(self, x):
        y = super().forward(x)
        if not self._saving:
            Fails.evaluations += 1
            if Fails.evaluations == self.at:
                y = y * np.nan
        return y


def test_a_difference_that_is_not_finite_is_off_wherever_it_is():
    Fails.evaluations = 0
    gradcheck(Fails(), X)
    total = Fails.evaluations
    assert total == 3 * 2 * 4  # three tensors, two directions, four evaluations
    for at in range(1, total + 1):
        module = Fails()
        module.at, Fails.evaluations = at, 0
        with pytest.raises(GradcheckError, match="is off by nan"):
            gradcheck(module, X)


def test_nan_is_the_worst_error_of_a_report():
    for errors in ({"a": np.nan, "b": 1.0}, {"b": 1.0, "a": np.nan}):
        assert GradcheckReport(errors, 1e-6).worst[0] == "a"


# --- The error is relative, however small the gradients -------------------------------------------


@pytest.mark.parametrize("size", [1e-12, 1e-6, 1.0, 1e6])
@pytest.mark.parametrize(("key", "name"), [("w", "w"), ("v", "v"), ("x", "input 0")])
def test_a_small_gradient_that_is_wrong_is_found(size, key, name):
    module = Scale(size)
    gradcheck(module, X)
    wrong = copy.deepcopy(module)
    wrong.factor[key] = 1 + 1e-5
    with pytest.raises(
        GradcheckError, match=rf"gradient of {name} is off by [5-9]\.\de-06|1\.0e-05"
    ):
        gradcheck(wrong, X)
    assert gradcheck(wrong, X, tolerance=2e-5).errors[name] == pytest.approx(1e-5, rel=0.01)


def test_a_gradient_a_thousandth_of_the_largest_is_still_relative():
    """Below 1e-3 of the largest derivative the error is relative to that."""

    class Two(Scale):
        def forward(self, x):
            self.push(x)
            return x * self.w.compute_value + 1e-2 * x * self.v.compute_value

        def backward(self, dy):
            x = self.pop()
            self.w.grad += (dy * x).sum(0)
            self.v.grad += self.factor["v"] * 1e-2 * (dy * x).sum(0)
            return dy * (self.w.value + 1e-2 * self.v.value)

    gradcheck(Two(), X)
    wrong = Two()
    wrong.factor["v"] = 1.01
    with pytest.raises(GradcheckError, match="gradient of v is off by"):
        gradcheck(wrong, X)
