"""SGD, Adam, RMSprop and Adagrad with every option: against PyTorch's and the formulas, frozen
parameters, groups, clipping, saved state, and wrong settings.
"""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import numpy as np
import pytest

from byhand import nn, optim

DECAY = {"weight_decay": 0.3}
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {}),
    ("SGD", DECAY),
    ("SGD", {"momentum": 0.9, **DECAY}),
    ("SGD", {"momentum": 0.8, "nesterov": True}),
    ("Adam", {}),
    ("Adam", {"betas": (0.8, 0.95), "eps": 1e-3, **DECAY}),
    ("AdamW", DECAY),
    ("RMSprop", {}),
    ("RMSprop", {"alpha": 0.9, "eps": 1e-4, **DECAY}),
    ("RMSprop", {"momentum": 0.9}),
    ("RMSprop", {"centered": True, "eps": 1e-4}),
    ("RMSprop", {"centered": True, "momentum": 0.5, "eps": 1e-4, **DECAY}),
    ("Adagrad", {}),
    ("Adagrad", {"lr_decay": 0.1, "eps": 1e-3, "initial_accumulator_value": 0.5, **DECAY}),
]
kinds = pytest.mark.parametrize(("kind", "options"), KINDS, ids=str)


def made(dtype: str = "float64") -> nn.Sequential:
    model = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 1)).build(1, dtype=dtype)
    for p in model.parameters():
        if p.value.ndim == 1:
            p.value = p.value + np.random.default_rng(3).standard_normal(p.shape)
    return model


def draw(model: nn.Module, rng: np.random.Generator) -> None:
    """Gradients of a quadratic bowl with noise: the weights stay in the range they have."""
    grads = model.storage.grads
    grads[...] = model.storage.values[: grads.size] + 0.5 * rng.standard_normal(grads.shape)


class Twin:
    """PyTorch's optimizer on the same parameters; only matrices decay, as in byhand."""

    def __init__(self, model: nn.Module, kind: str, lr: float, options: dict[str, Any]):
        self.torch = pytest.importorskip("torch")
        self.model = model
        self.params = {
            n: self.torch.nn.Parameter(self.torch.tensor(np.asarray(p.value, np.float64)))
            for n, p in model.named_parameters()
        }
        rest = {name: value for name, value in options.items() if name != "weight_decay"}
        decay = options.get("weight_decay", 0.0)
        groups = [
            {"params": [p], "weight_decay": decay if p.ndim > 1 else 0.0}
            for p in self.params.values()
        ]
        self.optimizer = getattr(self.torch.optim, kind)(groups, lr=lr, **rest)

    def step(self, clip_norm: float | None = None) -> None:
        for name, p in self.model.named_parameters():
            self.params[name].grad = self.torch.tensor(np.asarray(p.grad, np.float64))
        if clip_norm is not None:
            self.torch.nn.utils.clip_grad_norm_(self.params.values(), clip_norm)
        self.optimizer.step()

    def assert_equal(self, **close: float) -> None:
        for name, p in self.model.named_parameters():
            theirs = self.params[name].detach().numpy()
            np.testing.assert_allclose(p.value, theirs, err_msg=name, **close)


@kinds
@pytest.mark.parametrize("steps", [1, 2, 1000])
def test_float64_is_pytorchs(kind, options, steps):
    model, rng = made(), np.random.default_rng(2)
    optimizer, twin = getattr(optim, kind)(model, 1e-2, **options), Twin(model, kind, 1e-2, options)
    for _ in range(steps):
        draw(model, rng)
        twin.step(clip_norm=2.0)
        optimizer.step(clip_norm=2.0)
    twin.assert_equal(rtol=1e-9, atol=1e-12)
    assert optimizer.step_count == steps


@kinds
def test_float32_is_as_exact_as_pytorchs(kind, options):
    """After a thousand steps with the same gradients the distance to float64 is at most four times
    that of PyTorch in float32, and a few roundings.
    """
    torch = pytest.importorskip("torch")
    exact, model = made("float64"), made("float32")
    exact.storage.values[...] = model.storage.values
    theirs = Twin(model, kind, 1e-2, options)
    for name, p in model.named_parameters():
        theirs.params[name].data = torch.tensor(p.value)
    ours = getattr(optim, kind)(model, 1e-2, **options)
    truth = getattr(optim, kind)(exact, 1e-2, **options)
    rng = np.random.default_rng(2)
    for _ in range(1000):
        draw(exact, rng)
        model.storage.grads[...] = exact.storage.grads
        exact.storage.grads[...] = model.storage.grads
        for name, p in model.named_parameters():
            theirs.params[name].grad = torch.tensor(p.grad)
        theirs.optimizer.step()
        ours.step()
        truth.step()
    twins = [theirs.params[name].detach().numpy() for name, _ in model.named_parameters()]
    true = [p.value for p in exact.parameters()]

    def worst(values: list[Any]) -> float:
        return max(np.abs(a - b).max() for a, b in zip(values, true, strict=True))

    few = 8 * np.finfo(np.float32).eps * max(np.abs(a).max() for a in true)
    assert worst([p.value for p in model.parameters()]) <= 4 * worst(twins) + few


def formula(kind: str, o: dict[str, Any], w: float, g: float, s: dict[str, float]) -> float:
    """One step on a number, written out; s is the state."""
    s["t"] = t = s.get("t", 0) + 1
    lr = 1e-2
    if kind == "AdamW":
        w *= 1 - lr * o.get("weight_decay", 0.01)
    else:
        g += o.get("weight_decay", 0.0) * w
    if kind == "SGD":
        mu = o.get("momentum", 0.0)
        s["m"] = mu * s.get("m", 0.0) + g
        return w - lr * (g + mu * s["m"] if o.get("nesterov") else s["m"])
    if kind in ("Adam", "AdamW"):
        b1, b2 = o.get("betas", (0.9, 0.999))
        s["m"] = b1 * s.get("m", 0.0) + (1 - b1) * g
        s["v"] = b2 * s.get("v", 0.0) + (1 - b2) * g**2
        root = np.sqrt(s["v"] / (1 - b2**t)) + o.get("eps", 1e-8)
        return w - lr * s["m"] / (1 - b1**t) / root
    if kind == "Adagrad":
        s["v"] = s.get("v", o.get("initial_accumulator_value", 0.0)) + g**2
        rate = lr / (1 + (t - 1) * o.get("lr_decay", 0.0))
        return w - rate * g / (np.sqrt(s["v"]) + o.get("eps", 1e-10))
    alpha = o.get("alpha", 0.99)
    s["v"] = alpha * s.get("v", 0.0) + (1 - alpha) * g**2
    s["mean"] = alpha * s.get("mean", 0.0) + (1 - alpha) * g
    variance = s["v"] - s["mean"] ** 2 if o.get("centered") else s["v"]
    s["m"] = o.get("momentum", 0.0) * s.get("m", 0.0) + g / (np.sqrt(variance) + o.get("eps", 1e-8))
    return w - lr * s["m"]


@kinds
def test_one_weight_follows_the_formula(kind, options):
    model, rng = nn.Linear(1, 1, bias=False).build(1, dtype="float64"), np.random.default_rng(5)
    optimizer = getattr(optim, kind)(model, 1e-2, **options)
    w, state = float(model.weight.value[0, 0]), {}
    for _ in range(5):
        g = float(rng.standard_normal())
        model.storage.grads[...] = g
        w = formula(kind, options, w, g, state)
        optimizer.step()
        assert model.weight.value[0, 0] == pytest.approx(w, rel=1e-12)


@kinds
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_norm_that_is_not_finite_changes_nothing(kind, options, dtype):
    model, rng = made(dtype), np.random.default_rng(2)
    optimizer = getattr(optim, kind)(model, 1e-2, **options)
    draw(model, rng)
    optimizer.step(clip_norm=1.0)
    values, slots = model.storage.values.copy(), copy.deepcopy(optimizer.slots)
    for wrong in (np.nan, np.inf):
        draw(model, rng)
        model.storage.grads[3] = wrong
        assert not np.isfinite(optimizer.step(clip_norm=1.0))
        assert np.array_equal(model.storage.values, values)
        assert all(np.array_equal(optimizer.slots[name], slots[name]) for name in slots)
    assert optimizer.step_count == 1


@kinds
def test_a_nan_stays_in_its_element(kind, options):
    model = made("float32")
    draw(model, np.random.default_rng(2))
    model.storage.grads[3] = np.nan
    getattr(optim, kind)(model, 1e-2, **options).step()
    assert np.flatnonzero(np.isnan(model.storage.values)).tolist() == [3]


@kinds
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_state_goes_on_bit_for_bit(kind, options, dtype):
    """Through a state_dict of copied arrays, deepcopy and pickle."""
    model, rng = made(dtype), np.random.default_rng(2)
    optimizer = getattr(optim, kind)(model, 1e-2, **options)
    for _ in range(3):
        draw(model, rng)
        optimizer.step()
    other = made(dtype)
    other.load_state_dict(model.state_dict())
    second = getattr(optim, kind)(other, 1e-2, **options)
    second.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    copied = copy.deepcopy(optimizer)
    unpickled = pickle.loads(pickle.dumps(optimizer))
    grads = rng.standard_normal(model.storage.grads.shape)
    for each in (optimizer, second, copied, unpickled):
        for scale in (1, 2):
            each.model.storage.grads[...] = scale * grads
            each.step()
        assert np.array_equal(each.model.storage.values, model.storage.values)
        assert each.step_count == 5
        assert all(np.array_equal(each.slots[n], flat) for n, flat in optimizer.slots.items())


@kinds
def test_frozen_parameters_do_not_move(kind, options):
    model, rng = made("float32"), np.random.default_rng(2)
    before = {n: p.value.copy() for n, p in model.named_parameters()}
    model.freeze(["0.weight", "1.*"])
    optimizer = getattr(optim, kind)(model, 1e-2, **options)
    for _ in range(2):
        draw(model, rng)
        optimizer.step(clip_norm=1.0)
    moved = {n for n, p in model.named_parameters() if not np.array_equal(p.value, before[n])}
    assert moved == {"0.bias", "2.weight", "2.bias"}
    for slot in optimizer.state_dict().values():
        assert isinstance(slot, int) or slot.keys() == moved


@kinds
def test_a_model_that_is_frozen_as_a_whole(kind, options):
    model = made("float32")
    model.freeze("*")
    before = model.storage.values.copy()
    optimizer = getattr(optim, kind)(model, 1e-2, **options)
    assert float(optimizer.step(clip_norm=1.0)) == 0
    assert np.array_equal(model.storage.values, before)


@kinds
def test_groups_have_their_own_settings(kind, options):
    grouped, rng = made(), np.random.default_rng(2)
    own = {"lr": 3e-3, "weight_decay": 0.7}
    plain, other = copy.deepcopy(grouped), copy.deepcopy(grouped)
    optimizers = [
        getattr(optim, kind)(
            grouped, 1e-2, **options, groups=[{"params": ["2.weight", "0.bias"], **own}]
        ),
        getattr(optim, kind)(plain, 1e-2, **options),
        getattr(optim, kind)(other, **{**options, **own}),
    ]
    for _ in range(3):
        grads = rng.standard_normal(grouped.storage.grads.shape)
        for optimizer in optimizers:
            optimizer.model.storage.grads[...] = grads
            optimizer.step()
    for (name, p), a, b in zip(
        grouped.named_parameters(), plain.parameters(), other.parameters(), strict=True
    ):
        expected = b if name in ("2.weight", "0.bias") else a
        np.testing.assert_array_equal(p.value, expected.value, err_msg=name)


@kinds
def test_a_new_rate_reaches_the_next_step(kind, options):
    model, rng = made(), np.random.default_rng(2)
    optimizer, twin = getattr(optim, kind)(model, 1e-2, **options), Twin(model, kind, 1e-2, options)
    for rate in (1e-2, 1e-3, 5e-2):
        optimizer.lr = rate
        for group in twin.optimizer.param_groups:
            group["lr"] = rate
        draw(model, rng)
        twin.step()
        optimizer.step()
    twin.assert_equal(rtol=1e-9, atol=1e-12)


# --- Penalties -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("l1", "l2"), [(0.4, 0.0), (0.0, 0.7), (0.4, 0.7)])
def test_the_penalties_are_proximal(l1, l2, dtype):
    """sign(w) max(|w| - lr l1, 0) / (1 + lr l2) after the step, for matrices only."""
    model, plain = made(dtype), made(dtype)
    for each, settings in ((model, {"l1": l1, "l2": l2}), (plain, {})):
        draw(each, np.random.default_rng(2))
        optim.SGD(each, 0.3, momentum=0.9, **settings).step()
    zeros = 0
    for p, w in zip(model.parameters(), (p.value for p in plain.parameters()), strict=True):
        if w.ndim > 1:
            zeros += int((p.value == 0).sum())
            w = np.sign(w) * np.maximum(np.abs(w) - 0.3 * l1, 0) / (1 + 0.3 * l2)
        np.testing.assert_allclose(p.value, w, rtol=2e-6, atol=1e-7)
    assert (zeros > 0) == (l1 > 0)


# --- Defaults, and wrong settings ----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad"])
def test_names_and_defaults_are_pytorchs(kind):
    torch = pytest.importorskip("torch")
    ours = inspect.signature(getattr(optim, kind)).parameters
    theirs = inspect.signature(getattr(torch.optim, kind)).parameters
    common = ours.keys() & theirs.keys()
    assert ours.keys() - common == {"model", "groups"} | ({"l1", "l2"} if kind == "SGD" else set())
    assert {n: ours[n].default for n in common} == {n: theirs[n].default for n in common}
    optimizer = getattr(optim, kind)(made())
    assert optimizer.SETTINGS == tuple(n for n in ours if n not in ("model", "groups"))
    assert all(getattr(optimizer, n) == ours[n].default for n in optimizer.SETTINGS)


def test_the_representation_shows_all_settings():
    assert repr(optim.SGD(made(), 0.1, momentum=0.9)) == (
        "SGD(lr=0.1, momentum=0.9, nesterov=False, weight_decay=0, l1=0, l2=0) of 6 parameters in "
        "1 groups, after 0 steps"
    )


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("SGD", {"lr": -1.0}, "SGD: lr must be a finite number >= 0, got -1.0"),
        ("SGD", {"lr": float("inf")}, "SGD: lr must be a finite number >= 0, got inf"),
        ("SGD", {"momentum": -0.9}, "SGD: momentum must be a finite number >= 0, got -0.9"),
        ("SGD", {"momentum": "0.9"}, "SGD: momentum must be a finite number >= 0, got '0.9'"),
        ("SGD", {"nesterov": True}, "SGD: nesterov needs a momentum above 0, got momentum=0"),
        ("SGD", {"nesterov": 1, "momentum": 0.9}, "SGD: nesterov must be a bool, got 1"),
        ("SGD", {"l1": -0.1}, "SGD: l1 must be a finite number >= 0, got -0.1"),
        ("SGD", {"l2": None}, "SGD: l2 must be a finite number >= 0, got None"),
        ("SGD", {"weight_decay": -0.1}, "SGD: weight_decay must be a finite number >= 0, got -0.1"),
        ("Adam", {"lr": -1.0}, "Adam: lr must be a finite number >= 0, got -1.0"),
        (
            "Adam",
            {"betas": (0.9, 1.0)},
            "Adam: betas must be two numbers in [0, 1), got (0.9,",
        ),
        ("Adam", {"betas": (-0.1, 0.9)}, "Adam: betas must be two numbers in [0, 1), got (-0.1,"),
        ("Adam", {"eps": -1.0}, "Adam: eps must be a finite number >= 0, got -1.0"),
        ("RMSprop", {"alpha": 1.0}, "RMSprop: alpha must be below 1, got 1.0"),
        ("RMSprop", {"alpha": -0.5}, "RMSprop: alpha must be a finite number >= 0, got -0.5"),
        ("RMSprop", {"eps": -0.5}, "RMSprop: eps must be a finite number >= 0, got -0.5"),
        (
            "RMSprop",
            {"momentum": float("nan")},
            "RMSprop: momentum must be a finite number >= 0, got nan",
        ),
        ("RMSprop", {"centered": "yes"}, "RMSprop: centered must be a bool, got 'yes'"),
        ("Adagrad", {"lr_decay": -1.0}, "Adagrad: lr_decay must be a finite number >= 0, got -1.0"),
        ("Adagrad", {"eps": -1.0}, "Adagrad: eps must be a finite number >= 0, got -1.0"),
        (
            "Adagrad",
            {"initial_accumulator_value": -1.0},
            "Adagrad: initial_accumulator_value must be a finite number >= 0, got -1.0",
        ),
    ],
)
def test_wrong_settings_are_named(kind, settings, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        getattr(optim, kind)(made(), **settings)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@kinds
def test_other_settings_are_fixed(kind, options):
    optimizer = getattr(optim, kind)(made(), 1e-2, **options)
    for name in optimizer.SETTINGS:
        if name in ("lr", "weight_decay"):
            setattr(optimizer, name, 0.5)
        else:
            with pytest.raises(AttributeError, match=f"^{kind}: {name} is fixed when"):
                setattr(optimizer, name, getattr(optimizer, name))
