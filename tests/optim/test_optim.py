"""AdamW over the flat buffer, clipping, and the schedule."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest

from byhand import nn, optim


class TwoLayers(nn.Module):
    def __init__(self):
        self.first = nn.Linear(5, 7)
        self.norm = nn.LayerNorm(7)
        self.second = nn.Linear(7, 3)


def with_gradients(dtype: str) -> TwoLayers:
    model = TwoLayers().build(1, dtype=dtype)
    model.storage.grads[...] = np.random.default_rng(2).standard_normal(model.storage.grads.shape)
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
        model.storage.grads[...] *= 1.001
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


GROUPS = [
    {"params": lambda name: name.startswith("first"), "lr": 3e-3},
    {"params": ["second.bias", "norm.weight"], "lr": 1e-4, "weight_decay": 0.5},
    {"params": ["second.weight"], "weight_decay": 0.0},
]


def test_groups_follow_pytorch():
    """Each group with its own settings, which change on the way; biases and norms never decay."""
    torch = pytest.importorskip("torch")
    model = with_gradients("float64")
    optimizer = optim.AdamW(model, 1e-2, (0.9, 0.95), 1e-8, 0.1, GROUPS)
    names = [group.names for group in optimizer.groups]
    assert names[1:] == [["norm.weight", "second.bias"], ["second.weight"], ["norm.bias"]]
    twins = {n: torch.nn.Parameter(torch.tensor(p.value)) for n, p in model.named_parameters()}
    decays = {n: p.decay for n, p in model.named_parameters()}
    theirs = torch.optim.AdamW([{"params": [p]} for p in twins.values()], betas=(0.9, 0.95))
    for step in range(6):
        if step == 2:
            optimizer.lr = 5e-3
            optimizer.groups[1].lr = 2e-2
        if step == 4:
            optimizer.weight_decay = 0.3
            optimizer.groups[0].weight_decay = 0.7
            optimizer.groups[0].lr = None  # now follows the optimizer's
        of = {name: group for group in optimizer.groups for name in group.names}
        for (name, p), settings in zip(model.named_parameters(), theirs.param_groups, strict=True):
            twins[name].grad = torch.tensor(p.grad)
            settings["lr"] = of[name].lr
            settings["weight_decay"] = of[name].weight_decay if decays[name] else 0.0
        optimizer.step()
        theirs.step()
    first, second, third, rest = optimizer.groups
    assert [first.lr, second.lr, third.lr, rest.lr] == [5e-3, 2e-2, 5e-3, 5e-3]
    assert [first.weight_decay, rest.weight_decay] == [0.7, 0.3]
    assert [second.weight_decay, third.weight_decay] == [0.5, 0.0]
    for name, p in model.named_parameters():
        np.testing.assert_allclose(p.value, twins[name].detach(), rtol=1e-12, atol=1e-14)


def test_groups_that_change_nothing_give_the_same_bits():
    plain, grouped = with_gradients("float32"), with_gradients("float32")
    some = [p for p in grouped.parameters() if p.shape[0] == 7]
    a = optim.AdamW(plain)
    b = optim.AdamW(grouped, groups=[{"params": some, "lr": 1e-3, "weight_decay": 0.01}])
    for _ in range(3):
        a.step(clip_norm=0.5)
        b.step(clip_norm=0.5)
    assert len(b.groups[0].names) == 4
    assert np.array_equal(plain.storage.values, grouped.storage.values)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([{"params": ["third"]}], "groups[0]: the model has no parameter 'third'"),
        ([{"params": "norm.bias"}], "groups[0]: params must be a list of names, got 'norm.bias'"),
        (
            [{"params": ["norm.bias"]}, {"params": lambda name: False}],
            "groups[1] has no parameters",
        ),
        ([{"lr": 1e-3}], "groups[0] has no parameters"),
        ([{"params": ["norm.bias"], "betas": (0, 0)}], "groups[0] has no setting 'betas'"),
        ([{"params": ["norm.bias"]}] * 2, "groups[1] takes norm.bias, which an earlier group has"),
        ([{"params": ["norm.bias"], "lr": -1.0}], "lr must be a finite number >= 0, got -1.0"),
        ([{"params": ["first.weight"]}], "groups[0]: first.weight is frozen"),
        (
            [{"params": [TwoLayers().build().norm.bias]}],  # of another model
            "groups[0]: the model has no parameter Parameter(norm.bias",
        ),
    ],
)
def test_wrong_groups_are_named(groups, message):
    model = TwoLayers().build()
    model.freeze("first.weight")
    with pytest.raises(ValueError, match=re.escape(message)):
        optim.AdamW(model, groups=groups)


def test_groups_are_dicts():
    with pytest.raises(TypeError, match=re.escape("groups[0] must be a dict, got str")):
        optim.AdamW(TwoLayers().build(), groups=["norm.bias"])
    with pytest.raises(TypeError, match="AdamW: groups must be a list of dicts, got dict"):
        optim.AdamW(TwoLayers().build(), groups={"params": ["norm.bias"]})


def test_a_group_may_name_parameters_themselves():
    model = TwoLayers().build()
    optimizer = optim.AdamW(model, groups=[{"params": [model.norm.bias], "lr": 0.5}])
    assert optimizer.groups[0].names == ["norm.bias"]


def test_settings_between_steps_are_checked_too():
    optimizer = optim.AdamW(TwoLayers().build())
    for target in (optimizer, optimizer.groups[0]):
        with pytest.raises(ValueError, match="lr must be a finite number"):
            target.lr = float("inf")
        with pytest.raises(ValueError, match="weight_decay must be a finite number"):
            target.weight_decay = -1.0
    assert (optimizer.lr, optimizer.weight_decay) == (1e-3, 0.01)


def test_float32_adamw_stays_close_to_float64():
    fast, truth = with_gradients("float32"), with_gradients("float64")
    truth.storage.values[...] = fast.storage.values
    truth.storage.grads[...] = fast.storage.grads
    a, b = optim.AdamW(fast, 1e-2), optim.AdamW(truth, 1e-2)
    for _ in range(50):
        a.step(clip_norm=0.7)
        b.step(clip_norm=0.7)
    np.testing.assert_allclose(fast.storage.values, truth.storage.values, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_clipping_inside_the_step_equals_clipping_before_it(dtype):
    inside, before = with_gradients(dtype), with_gradients(dtype)
    norm = optim.AdamW(inside).step(clip_norm=0.5)
    other = optim.clip_grad_norm(before, 0.5)
    optim.AdamW(before).step()
    exact = np.linalg.norm(with_gradients("float64").storage.grads)
    assert abs(float(norm) / exact - 1) < 1e-6
    assert float(norm) == float(other)
    np.testing.assert_allclose(inside.storage.values, before.storage.values, rtol=1e-6, atol=1e-8)
    assert abs(np.linalg.norm(before.storage.grads) / 0.5 - 1) < 1e-4


def test_small_gradients_are_not_clipped():
    model = with_gradients("float32")
    grads = model.storage.grads.copy()
    optim.clip_grad_norm(model, 1e6)
    assert np.array_equal(model.storage.grads, grads)


def test_state_round_trips():
    a, b = with_gradients("float32"), with_gradients("float32")
    first, second = optim.AdamW(a), optim.AdamW(b)
    first.step()
    first.step()
    second.load_state_dict(first.state_dict())
    b.load_state_dict(a.state_dict())
    assert second.step_count == 2
    first.step()
    second.step()
    assert np.array_equal(a.storage.values, b.storage.values)
    with pytest.raises(ValueError, match="step must be an integer >= 0, got -1"):
        second.load_state_dict({**first.state_dict(), "step": -1})


def without(state, slot, name):
    return {**state, slot: {n: a for n, a in state[slot].items() if n != name}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {"step": 1, "m": s["m"]}, "v is missing"),
        (lambda s: {**s, "momentum": {}}, "there is no state called momentum"),
        (lambda s: without(s, "v", "norm.bias"), "v of norm.bias is missing"),
        (lambda s: {**s, "m": {**s["m"], "x": s["m"]["norm.bias"]}}, "m of x belongs to no"),
        (
            lambda s: {**s, "m": {**s["m"], "norm.bias": np.zeros(3)}},
            r"m of norm.bias must have shape \(7,\), got \(3,\)",
        ),
        (lambda s: {**s, "v": {**s["v"], "norm.bias": [0.0] * 7}}, r"shape \(7,\), got list"),
        (lambda s: {**s, "v": 3}, "v must be a dict, got int"),
        (lambda s: {**s, "step": 2.7}, "step must be an integer >= 0, got 2.7"),
        (lambda s: {**s, "step": None}, "step must be an integer >= 0, got None"),
    ],
)
def test_wrong_state_is_named_and_changes_nothing(change, message):
    model = with_gradients("float32")
    optimizer = optim.AdamW(model)
    optimizer.step()
    before = {name: flat.copy() for name, flat in optimizer.slots.items()}
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(change(optimizer.state_dict()))
    with pytest.raises(TypeError, match="load_state_dict takes what state_dict gave, got NoneType"):
        optimizer.load_state_dict(None)  # type: ignore[arg-type]
    assert all(np.array_equal(flat, before[name]) for name, flat in optimizer.slots.items())


def test_state_is_kept_by_name_for_any_layout():
    """Freezing a parameter moves the others in the flat buffer; their moments follow by name."""
    model = with_gradients("float32")
    first = optim.AdamW(model)
    first.step()
    state = {slot: {n: a.copy() for n, a in first.state_dict()[slot].items()} for slot in "mv"}
    model.freeze("first.*")
    second = optim.AdamW(model)
    kept = {slot: {n: a for n, a in of.items() if n[:5] != "first"} for slot, of in state.items()}
    second.load_state_dict({**kept, "step": 1})
    for slot, of in kept.items():
        for name, array in of.items():
            assert np.array_equal(second.state_dict()[slot][name], array)
    with pytest.raises(ValueError, match=r"m of first.bias belongs to no trained parameter"):
        second.load_state_dict({**state, "step": 1})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(lr=-1.0), "lr"),
        (dict(lr=float("nan")), "lr"),
        (dict(lr="0.1"), "lr must be a finite number >= 0, got '0.1'"),
        (dict(lr=True), "lr must be a finite number >= 0, got True"),
        (dict(lr=None), "lr must be a finite number >= 0, got None"),
        (dict(eps=-1e-8), "eps"),
        (dict(weight_decay=-0.1), "weight_decay"),
        (dict(betas=(0.9, 1.0)), "betas"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        optim.AdamW(TwoLayers().build(), **settings)


def test_a_moved_model_is_refused():
    model = with_gradients("float32")
    optimizer = optim.AdamW(model)
    model.to(dtype="float64")
    with pytest.raises(RuntimeError, match="were moved"):
        optimizer.step()


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (TwoLayers(), RuntimeError, r"AdamW: the model is not built: call model.build\(seed\)"),
        (TwoLayers().build().parameters(), TypeError, "AdamW takes the model itself .*, got list"),
        (TwoLayers().build().first, ValueError, "AdamW: this module is a part of a larger model"),
    ],
)
def test_only_a_whole_built_model_is_accepted(model, error, message):
    with pytest.raises(error, match=message):
        optim.AdamW(model)


def test_frozen_parameters_do_not_move():
    model = with_gradients("float32")
    model.freeze(["first.weight", "*.bias"])
    frozen = [p for p in model.parameters() if not p.trainable]
    before = [p.value.copy() for p in frozen], model.second.weight.value.copy()
    assert [p.grad for p in frozen] == [None] * 4
    model.storage.grads[...] = 1
    optimizer = optim.AdamW(model, weight_decay=0.5)
    assert optimizer.slots["m"].size == model.storage.grads.size == 7 + 21
    optimizer.step(clip_norm=1.0)
    assert all(np.array_equal(p.value, b) for p, b in zip(frozen, before[0], strict=True))
    assert not np.array_equal(model.second.weight.value, before[1])


def test_warmup_cosine():
    schedule = optim.WarmupCosine(1.0, warmup=10, total=110, min_lr=0.1)
    rates = [schedule(step) for step in range(120)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.55)
    assert rates[110] == rates[119] == 0.1
    assert all(a <= b for a, b in pairwise(rates[:10]))
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert optim.Constant(0.5)(7) == 0.5


def test_schedule_without_warmup_or_steps():
    assert optim.WarmupCosine(1.0, 0, 1, 0.0)(0) == 1.0
    assert optim.WarmupCosine(1.0, 0, 1, 0.2)(5) == 0.2
