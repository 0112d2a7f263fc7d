"""The moving average of the weights, and the learning-rate range test."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest

from byhand import MLP, MLPConfig, nn, optim


def made(dtype: str = "float64") -> nn.Linear:
    return nn.Linear(5, 3).build(1, dtype=dtype)


def move(model: nn.Module, rng: np.random.Generator) -> None:
    model.storage.values[...] += rng.standard_normal(model.storage.values.shape)
    model.storage.refresh()


def test_the_average_follows_the_formula_and_pytorch():
    torch = pytest.importorskip("torch")
    model, rng = made(), np.random.default_rng(2)
    ema, expected = optim.EMA(model, 0.9), model.weight.value.copy()
    twin = torch.nn.Linear(5, 3).double()
    twin.weight.data = torch.tensor(expected)
    theirs = torch.optim.swa_utils.AveragedModel(
        twin, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    )
    theirs.update_parameters(twin)  # PyTorch's first call copies the weights
    for _ in range(20):
        move(model, rng)
        ema.update()
        expected = 0.9 * expected + 0.1 * model.weight.value
        twin.weight.data = torch.tensor(model.weight.value.copy())
        theirs.update_parameters(twin)
    average = ema.state_dict()["average"]["weight"]
    np.testing.assert_allclose(average, expected, rtol=1e-12)
    np.testing.assert_allclose(average, theirs.module.weight.detach(), rtol=1e-12)
    assert ema.updates == 20
    assert repr(ema) == "EMA(decay=0.9) after 20 updates"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_average_is_in_the_model_for_a_while(dtype):
    model, rng = made(dtype), np.random.default_rng(2)
    ema = optim.EMA(model, 0.5)
    move(model, rng)
    ema.update()
    average, own = copy.deepcopy(ema.state_dict()["average"]), model.storage.values.copy()
    x = rng.standard_normal((4, 5)).astype(dtype)
    with ema.applied() as inside:
        assert inside is model
        assert np.array_equal(model.weight.value, average["weight"])
        y = model.inference()(x)
        model.train()
        np.testing.assert_allclose(y, x @ average["weight"].T + average["bias"], rtol=1e-5)
        with pytest.raises(RuntimeError, match=r"EMA\.update: the averaged weights are in the"):
            ema.update()
        with pytest.raises(RuntimeError, match=r"EMA\.applied: the averaged"), ema.applied():
            pass
    assert np.array_equal(model.storage.values, own)
    with pytest.raises(KeyError), ema.applied():
        raise KeyError
    assert np.array_equal(model.storage.values, own)


def test_the_copy_in_half_precision_is_averaged_too():
    pytest.importorskip("ml_dtypes")
    model = made("float32")
    model.storage.move(half=True)
    ema = optim.EMA(model, 0.5)
    move(model, np.random.default_rng(2))
    ema.update()
    half = model.storage.compute_values.copy()
    with ema.applied():
        assert np.array_equal(model.storage.compute_values, model.storage.values.astype(half.dtype))
        assert not np.array_equal(model.storage.compute_values, half)
    assert np.array_equal(model.storage.compute_values, half)


def test_frozen_parameters_are_not_averaged():
    model, rng = made(), np.random.default_rng(2)
    model.freeze("weight")
    ema = optim.EMA(model, 0.5)
    move(model, rng)
    weight = model.weight.value.copy()
    assert ema.state_dict()["average"].keys() == {"bias"}
    with ema.applied():
        assert np.array_equal(model.weight.value, weight)


def test_the_state_goes_on_bit_for_bit():
    model, rng = made("float32"), np.random.default_rng(2)
    first = optim.EMA(model, 0.9)
    move(model, rng)
    first.update()
    state = copy.deepcopy(first.state_dict())
    second = optim.EMA(model, 0.9)
    second.load_state_dict(state)
    move(model, rng)
    for ema in (first, second):
        ema.update()
    assert second.updates == 2
    for name, array in first.state_dict()["average"].items():
        assert np.array_equal(array, second.state_dict()["average"][name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"updates": -1}, "updates must be an integer >= 0, got -1"),
        ({"average": 3}, "average must be a dict, got int"),
        ({"average": {}}, "average of bias is missing"),
        (
            {"average": {"bias": np.ones(3), "weight": np.ones((3, 5)), "x": np.ones(1)}},
            "average of x belongs to no trained parameter",
        ),
        (
            {"average": {"bias": np.ones(3), "weight": np.ones((5, 3))}},
            r"average of weight must have shape \(3, 5\), got \(5, 3\)",
        ),
    ],
)
def test_a_wrong_state_changes_nothing(change, message):
    ema = optim.EMA(made(), 0.9)
    before = copy.deepcopy(ema.state_dict())
    with pytest.raises(ValueError, match=r"^EMA\.load_state_dict: " + message):
        ema.load_state_dict({**before, **change})
    with pytest.raises(ValueError, match="average is missing"):
        ema.load_state_dict({"updates": 1})
    for name, array in ema.state_dict()["average"].items():
        assert np.array_equal(array, before["average"][name])


@pytest.mark.parametrize("decay", [1.0, -0.1, math.nan, "0.9", None, True])
def test_a_wrong_decay_is_named(decay):
    with pytest.raises(ValueError, match=r"^EMA: decay must be (a number|in \[0, 1\))"):
        optim.EMA(made(), decay)


def test_only_a_whole_built_model_that_stays_is_averaged():
    with pytest.raises(TypeError, match="EMA takes the model itself, got list"):
        optim.EMA(made().parameters())
    with pytest.raises(RuntimeError, match=r"EMA: the model is not built: call model\.build"):
        optim.EMA(nn.Linear(2, 3))
    whole = nn.Sequential(nn.Linear(2, 3)).build()
    with pytest.raises(ValueError, match="EMA: this module is a part of a larger model"):
        optim.EMA(whole[0])
    ema = optim.EMA(whole)
    whole.to(dtype="float64")
    with pytest.raises(RuntimeError, match="EMA: the model's parameters were moved"):
        ema.update()


# --- The range test ------------------------------------------------------------------------------


class Bowl:
    """|w|^2 / 2 of a model's weights; gradient descent diverges from a rate of 2 on."""

    def __init__(self) -> None:
        self.model = made()
        self.calls = 0

    def __call__(self) -> float:
        self.calls += 1
        self.model.storage.grads[...] += self.model.storage.values
        return float((self.model.storage.values**2).sum() / 2)


def test_the_range_test_finds_where_the_loss_falls_and_where_it_diverges():
    bowl = Bowl()
    optimizer = optim.SGD(bowl.model, 0.123, momentum=0.5)
    draw = np.random.default_rng(3).standard_normal(bowl.model.storage.grads.shape)
    bowl.model.storage.grads[...] = draw
    optimizer.step()
    before = bowl.model.storage.values.copy(), copy.deepcopy(optimizer.slots)
    found = optim.find_lr(optimizer, bowl, 1e-4, 1e3, steps=141)
    assert bowl.calls == len(found.losses) == len(found.lrs) < 141  # stopped early
    assert found.lrs[:2] == pytest.approx([1e-4, 1e-4 * 10 ** (7 / 140)])
    assert 0.005 < found.steepest < 2 < found.lrs[-1]
    assert found.losses[0] == pytest.approx((before[0] ** 2).sum() / 2)
    assert min(found.losses) < 0.2 * found.losses[0]
    assert np.array_equal(bowl.model.storage.values, before[0])
    assert np.array_equal(optimizer.slots["m"], before[1]["m"])
    assert (optimizer.lr, optimizer.step_count) == (0.123, 1)
    assert not bowl.model.storage.grads.any()


def test_the_range_test_repeats_with_dropout_and_after_an_error():
    model = MLP(MLPConfig(6, 3, (8,), dropout=0.5), seed=1)
    optimizer = optim.Adam(model)
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((20, 6), dtype=np.float32), rng.integers(0, 3, 20)
    criterion = nn.CrossEntropyLoss() if hasattr(nn, "CrossEntropyLoss") else None

    def loss() -> float:
        logits = model(x)
        if criterion is not None:
            value = criterion(logits, labels)
            model.backward(criterion.backward())
            return float(value)
        model.backward(logits)
        return float((np.asarray(logits) ** 2).sum() / 2)

    first, second = (optim.find_lr(optimizer, loss, steps=20) for _ in range(2))
    assert first == second
    before = model.storage.values.copy()
    calls = iter([1.0, 1.0, math.nan, 1.0])
    assert len(optim.find_lr(optimizer, lambda: next(calls), steps=4).losses) == 2
    with pytest.raises(ValueError, match="find_lr: the loss falls at no learning rate"):
        _ = optim.RangeTest([0.1, 0.2], [1.0, 2.0]).steepest

    def broken() -> float:
        loss()
        raise KeyError("batch")

    with pytest.raises(KeyError, match="batch"):
        optim.find_lr(optimizer, broken)
    assert np.array_equal(model.storage.values, before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr_min": 0.0}, "lr_min and lr_max must be 0 < lr_min < lr_max, got 0.0 and 1.0"),
        ({"lr_min": 2.0}, "lr_min and lr_max must be 0 < lr_min < lr_max, got 2.0 and 1.0"),
        ({"lr_max": math.inf}, "lr_min and lr_max must be 0 < lr_min < lr_max, got 1e-06 and inf"),
        ({"lr_max": "1"}, "lr_max must be a number, got '1'"),
        ({"steps": 1}, "steps must be a whole number >= 2, got 1"),
        ({"lr_min": np.array([0.1])}, "lr_min must be a number, got array([0.1])"),
        ({"loss": lambda: None}, "what loss() returns must be a number, got None"),
    ],
)
def test_wrong_arguments_of_the_range_test_are_named(settings, message):
    bowl = Bowl()
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        optim.find_lr(optim.SGD(bowl.model), **{"loss": bowl, **settings})
    assert str(caught.value) == f"find_lr: {message}"


def test_the_range_test_takes_an_optimizer_and_a_function():
    bowl = Bowl()
    with pytest.raises(TypeError, match="find_lr: the first argument must be an optimizer, got Bo"):
        optim.find_lr(bowl, optim.SGD(bowl.model))
    with pytest.raises(TypeError, match="find_lr: loss must be a function that returns the loss, "):
        optim.find_lr(optim.SGD(bowl.model), 1.0)
    assert len(optim.find_lr(optim.SGD(bowl.model), bowl, steps=np.int64(3)).lrs) == 3


def test_a_constant_loss_falls_nowhere():
    """Although rounding changes its running mean."""
    lrs = np.geomspace(1e-6, 1, 100).tolist()
    with pytest.raises(ValueError, match="the loss falls at no learning rate of the range"):
        _ = optim.RangeTest(lrs, [0.7] * 100).steepest
    assert optim.RangeTest(lrs, [0.7] * 50 + [0.699999] * 50).steepest == lrs[50]


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        (lambda m: optim.SGD(m, lr=0.0).step(), False),
        (lambda m: move(m, np.random.default_rng(0)), True),
        (lambda m: m.load_state_dict({n: 2 * v for n, v in m.state_dict().items()}), True),
    ],
)
def test_what_changes_the_averaged_weights_is_told_that_they_are_lost(change, lost):
    model = made()
    ema, own = optim.EMA(model), model.storage.values.copy()

    def changed_inside() -> None:
        with ema.applied():
            change(model)

    if lost:
        with pytest.raises(RuntimeError, match=r"EMA\.applied: the averaged weights were changed"):
            changed_inside()
    else:
        changed_inside()
    assert np.array_equal(model.storage.values, own)


@pytest.mark.parametrize("change", [lambda m: m.freeze("weight"), lambda m: m.to(dtype="float32")])
def test_the_own_weights_come_back_where_the_parameters_were_moved(change):
    model = made()
    ema, own = optim.EMA(model), {n: v.copy() for n, v in model.state_dict().items()}
    move(model, np.random.default_rng(0))
    ema.update()
    model.load_state_dict(own)
    with ema.applied():
        change(model)
    for name, value in model.state_dict().items():
        np.testing.assert_allclose(value, own[name], rtol=1e-6)
    with pytest.raises(RuntimeError, match="make a new EMA"):
        ema.update()


def test_the_decay_may_follow_a_schedule():
    model = made()
    ema, before = optim.EMA(model, 0.9), model.weight.value.copy()
    model.weight.value += 1
    ema.decay = 0.25
    ema.update()
    np.testing.assert_allclose(ema.state_dict()["average"]["weight"], before + 0.75)
    for wrong in (1.0, "0.9", np.array([0.9])):
        with pytest.raises(ValueError, match="EMA: decay must be"):
            ema.decay = wrong


def test_states_of_tensors_are_taken():
    torch = pytest.importorskip("torch")

    def tensors(state):
        return {name: torch.tensor(a) for name, a in state.items()}

    model, other = made(), nn.Linear(5, 3).build(7, dtype="float64")
    other.load_state_dict(tensors(model.state_dict()))
    assert np.array_equal(other.storage.values, model.storage.values)
    other.weight.value = torch.ones(3, 5)
    assert (other.weight.value == 1).all()
    first, second = optim.Adam(model), optim.Adam(made())
    first.slots["m"][...] = 3
    second.load_state_dict(
        {n: s if n == "step" else tensors(s) for n, s in first.state_dict().items()}
    )
    assert (second.slots["m"] == 3).all()
    ema = optim.EMA(made())
    average = tensors(optim.EMA(model).state_dict()["average"])
    ema.load_state_dict({"updates": 3, "average": average})
    assert np.array_equal(ema.state_dict()["average"]["bias"], model.bias.value)
    with pytest.raises(TypeError, match=r"weight is bfloat16, .*use weight\.float"):
        model.load_state_dict({**model.state_dict(), "weight": torch.ones(3, 5).bfloat16()})
    with pytest.raises(TypeError, match=r"Linear\.weight is a Parameter, got Tensor"):
        model.weight = torch.ones(3, 5)
