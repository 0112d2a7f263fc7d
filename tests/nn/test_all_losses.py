"""What all losses have in common: defaults, order of passes, copies, extreme values; mistakes."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
import re

import numpy as np
import pytest

from byhand import backend, nn
from tests.nn.test_losses import REDUCTIONS, WEIGHT, probabilities, random

EVERY = {
    "MSELoss": lambda: (random(4, 5), random(4, 5, seed=1)),
    "HuberLoss": lambda: (random(4, 5), random(4, 5, seed=1)),
    "BCEWithLogitsLoss": lambda: (random(4, 5), probabilities(4, 5)),
    "CrossEntropyLoss": lambda: (random(4, 5), np.array([0, 4, -100, 2])),
    "NLLLoss": lambda: (random(4, 5), np.array([0, 4, -100, 2])),
    "InfoNCELoss": lambda: (random(4, 5), random(4, 5, seed=1)),
}
every = pytest.mark.parametrize("name", EVERY)


def first(gradient):
    return gradient[0] if isinstance(gradient, tuple) else gradient


@every
def test_the_defaults_are_pytorchs(name):
    torch = pytest.importorskip("torch")
    mine = getattr(nn, name)()
    assert mine.reduction == "mean"
    if name == "InfoNCELoss":  # PyTorch has none
        assert mine.temperature == 0.1
        return
    theirs = getattr(torch.nn, name)()
    own = set(inspect.signature(getattr(nn, name)).parameters)
    assert own - {"half"} <= set(inspect.signature(type(theirs)).parameters)
    for option in own - {"half"}:
        assert getattr(mine, option) == getattr(theirs, option)
    assert not getattr(mine, "half", False)


@every
def test_the_gradient_of_the_loss_is_1_by_default(name):
    loss, inputs = getattr(nn, name)(), EVERY[name]()
    loss(*inputs)
    default = first(loss.backward())
    for one in (1.0, np.ones(())):
        loss(*inputs)
        assert np.array_equal(first(loss.backward(one)), default)
    loss(*inputs)
    np.testing.assert_allclose(first(loss.backward(-0.5)), -0.5 * default, rtol=1e-12)


@every
def test_calls_are_undone_last_in_first_out_and_keep_nothing_in_inference(name):
    loss, inputs = getattr(nn, name)(), EVERY[name]()
    with pytest.raises(RuntimeError, match=rf"{name}\.backward was called without a forward pass"):
        loss.backward()
    loss(*inputs)
    loss(*(a[:2].copy() for a in inputs))
    assert first(loss.backward()).shape == (2, 5)
    assert first(loss.backward()).shape == (4, 5)
    loss.inference()
    loss(*inputs)
    with pytest.raises(RuntimeError, match="inference"):
        loss.backward()


@every
def test_with_none_the_gradient_of_each_loss_must_be_given(name):
    loss, inputs = getattr(nn, name)(reduction="none"), EVERY[name]()
    value = loss(*inputs)
    sentence = rf"{name}\.backward: dloss must be given, an array with a number for each loss"
    with pytest.raises(ValueError, match=sentence):
        loss.backward()
    with pytest.raises(ValueError, match="dloss must have shape"):
        loss.backward(np.ones((9, 9)))
    assert first(loss.backward(np.ones_like(value))).shape == (4, 5), "the call is still there"


@every
def test_an_error_leaves_nothing_behind(name):
    loss, inputs = getattr(nn, name)(), EVERY[name]()
    with pytest.raises((ValueError, TypeError)):
        loss(inputs[0], inputs[1][:-1].copy())
    assert loss.waiting() == ""


@every
@pytest.mark.parametrize("weighted", [False, True])
def test_the_target_may_be_changed_after_the_call_and_may_have_gaps(name, weighted):
    of_classes = name in ("CrossEntropyLoss", "NLLLoss")
    loss = getattr(nn, name)(WEIGHT) if weighted and of_classes else getattr(nn, name)()
    x, target = EVERY[name]()
    value = loss(x, target)
    expected = loss.backward()
    gaps = np.repeat(target, 2, axis=-1)[..., ::2]
    assert loss(x, gaps) == value
    gaps[...] = 0
    for mine, other in zip(np.atleast_1d(loss.backward()), np.atleast_1d(expected), strict=True):
        assert np.array_equal(mine, other)
    with loss.no_save():
        assert loss(x, np.repeat(target, 2, axis=-1)[..., ::2]) == value


@every
def test_a_loss_can_be_copied_and_pickled(name):
    loss = getattr(nn, name)()
    if name in ("CrossEntropyLoss", "NLLLoss"):
        loss = getattr(nn, name)(WEIGHT)
    inputs = EVERY[name]()
    value = loss(*inputs)
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert other(*inputs) == value
        assert repr(other) == repr(loss)


@every
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_at_ten_thousand_everything_is_finite(name, dtype):
    inputs = EVERY[name]()
    for sign in (1, -1):
        x = (sign * 1e4 * np.sign(inputs[0])).astype(dtype)
        target = inputs[1] if inputs[1].dtype == np.int64 else inputs[1].astype(dtype)
        for reduction in REDUCTIONS:
            loss = getattr(nn, name)(reduction=reduction)
            with np.errstate(all="raise", under="ignore"):
                value = loss(x, target)
                dx = loss.backward(np.ones_like(value))
            assert np.isfinite(value).all()
            assert np.isfinite(first(dx)).all()


@pytest.mark.parametrize("name", [n for n in EVERY if n != "InfoNCELoss"])  # its rows are compared
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_nan_stays_in_its_row(name, dtype):
    inputs = EVERY[name]()
    x = inputs[0].astype(dtype)
    target = inputs[1] if inputs[1].dtype == np.int64 else inputs[1].astype(dtype)
    loss = getattr(nn, name)(reduction="none")
    clean = loss(x, target)
    dloss = np.ones_like(clean)
    clean_dx = loss.backward(dloss)
    x[1, 4] = np.nan  # of NLLLoss the element of the target
    value = loss(x, target)
    dx = loss.backward(dloss)
    others = np.arange(4) != 1
    assert np.isnan(value[1]).any()
    assert np.array_equal(value[others], clean[others])
    assert np.array_equal(dx[others], clean_dx[others])
    x[2] = np.nan  # left out by the losses of classes
    if inputs[1].dtype == np.int64:
        assert loss(x, target)[2] == 0
        assert not loss.backward(dloss)[2].any()


def test_a_loss_trains_a_layer():
    """The loop that a user writes, on three problems of which each is solved."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 4)).astype(np.float32)
    w = rng.standard_normal((4, 3)).astype(np.float32)
    scores = x @ w
    problems = [
        (nn.MSELoss(), scores, 0.01),
        (nn.BCEWithLogitsLoss(), (scores > 0).astype(np.float32), 0.3),
        (nn.CrossEntropyLoss(weight=[1, 2, 1]), scores.argmax(axis=1), 0.3),
    ]
    for loss, target, good in problems:
        layer = nn.Linear(4, 3).build(0)
        for _ in range(200):
            layer.zero_grad()
            value = loss(layer(x), target)
            layer.backward(loss.backward())
            for p in layer.parameters():
                p.value = p.value - 0.5 * p.grad
        assert value < good


def test_a_loss_shows_its_options():
    shown = [repr(nn.MSELoss(half=True)), repr(nn.HuberLoss(delta=2.0)), repr(nn.InfoNCELoss(0.2))]
    assert shown == [
        "MSELoss(reduction='mean', half=True)",
        "HuberLoss(reduction='mean', delta=2.0)",
        "InfoNCELoss(reduction='mean', temperature=0.2)",
    ]


def test_a_negative_ignore_index_has_no_effect_on_probabilities():
    values = [nn.CrossEntropyLoss(ignore_index=i)(X, probabilities(4, 5)) for i in (-100, -1)]
    assert values[0] == values[1]


def test_an_option_that_is_changed_counts():
    x, ids = EVERY["CrossEntropyLoss"]()
    loss = nn.CrossEntropyLoss()
    before = loss(x, ids)
    loss.label_smoothing = 0.5
    smoothed = loss(x, ids)
    loss.reduction = "none"
    assert before != smoothed
    assert loss(x, ids).shape == ids.shape


class Series:
    """Has a shape and a dtype, as pandas' tables have, and is no array."""

    def __init__(self, a):
        self.shape, self.dtype, self.ndim, self.values = a.shape, a.dtype, a.ndim, a

    def __array__(self, dtype=None, copy=None):
        return self.values


@pytest.mark.parametrize(
    ("loss", "option", "sentence"),
    [
        (nn.HuberLoss(), {"delta": -1}, "HuberLoss: delta must be a number greater than 0, got -1"),
        (nn.BCEWithLogitsLoss(), {"pos_weight": 0}, "BCEWithLogitsLoss: pos_weight must be a numb"),
        (nn.InfoNCELoss(), {"temperature": 0}, "InfoNCELoss: temperature must be a number greater"),
        (nn.CrossEntropyLoss(), {"weight": [1, -1]}, "CrossEntropyLoss: weight[1] must be a numbe"),
        (nn.NLLLoss(), {"weight": "abc"}, "NLLLoss: weight must be an array of numbers, got str"),
    ],
)
def test_an_option_that_is_set_to_a_wrong_value_is_named(loss, option, sentence):
    def use() -> None:
        for name, value in option.items():
            setattr(loss, name, value)
        loss(X % 1, X % 1)

    with pytest.raises((TypeError, ValueError), match=re.escape(sentence)):
        use()


def test_class_weights_may_be_set():
    loss = nn.CrossEntropyLoss()
    loss.weight = [1, 2, 3, 4, 5]
    assert loss(X, IDS) == nn.CrossEntropyLoss([1, 2, 3, 4, 5])(X, IDS)


X, IDS = random(4, 5), np.array([0, 4, 1, 2])
F32, LINEAR = X.astype(np.float32), nn.Linear(5, 3).build(dtype="float64")
WRONG = [
    (
        lambda: nn.MSELoss("maen"),
        "MSELoss: reduction must be 'mean', 'sum' or 'none', got 'maen' (did you mean mean?)",
    ),
    (lambda: nn.NLLLoss(reduction=None), "NLLLoss: reduction must be 'mean', 'sum' or 'none', got"),
    (
        lambda: nn.CrossEntropyLoss(reduction=["mean"]),
        "CrossEntropyLoss: reduction must be 'mean', 'sum' or 'none', got ['mean']",
    ),
    (lambda: nn.HuberLoss(delta=0), "HuberLoss: delta must be a number greater than 0, got 0"),
    (lambda: nn.HuberLoss(delta="1"), "HuberLoss: delta must be a number greater than 0, got '1'"),
    (
        lambda: nn.BCEWithLogitsLoss(pos_weight=math.nan),
        "BCEWithLogitsLoss: pos_weight must be a number greater than 0, got nan",
    ),
    (
        lambda: nn.BCEWithLogitsLoss(pos_weight=np.ones(3)),
        "BCEWithLogitsLoss: pos_weight must be a number greater than 0, got array(",
    ),
    (
        lambda: nn.InfoNCELoss(0),
        "InfoNCELoss: temperature must be a number greater than 0, got 0",
    ),
    (
        lambda: nn.InfoNCELoss(math.inf),
        "InfoNCELoss: temperature must be a number greater than 0, got inf",
    ),
    (
        lambda: nn.CrossEntropyLoss(label_smoothing=1.1),
        "CrossEntropyLoss: label_smoothing must be in 0..1, got 1.1",
    ),
    (
        lambda: nn.CrossEntropyLoss(label_smoothing="a"),
        "CrossEntropyLoss: label_smoothing must be in 0..1, got 'a'",
    ),
    (
        lambda: nn.CrossEntropyLoss(ignore_index=None),
        "CrossEntropyLoss: ignore_index must be a whole number, got None",
    ),
    (lambda: nn.NLLLoss([1, -1]), "NLLLoss: weight[1] must be a number of at least 0, got -1.0"),
    (
        lambda: nn.CrossEntropyLoss([1, math.nan]),
        "CrossEntropyLoss: weight[1] must be a number of at least 0, got nan",
    ),
    (lambda: nn.NLLLoss("abc"), "NLLLoss: weight must be an array of numbers, got str"),
    (lambda: nn.NLLLoss(2.0), "NLLLoss: weight must have shape (V,), got ()"),
    (
        lambda: nn.CrossEntropyLoss([1.0, 2.0])(X, IDS),
        "CrossEntropyLoss: weight must have shape (5,), got (2,), where prediction has shape (4,",
    ),
    (lambda: nn.CrossEntropyLoss()([1.0], IDS), "CrossEntropyLoss: prediction must be an array,"),
    (lambda: nn.CrossEntropyLoss()(X, [1]), "CrossEntropyLoss: target must be an array, got list"),
    (lambda: nn.NLLLoss()([1.0], IDS), "NLLLoss: prediction must be an array, got list"),
    (lambda: nn.NLLLoss()(X, [1]), "NLLLoss: target must be an array, got list: use np.array("),
    (lambda: nn.CrossEntropyLoss()(X, IDS[:3]), "target must have shape (4,), got (3,), where"),
    (lambda: nn.CrossEntropyLoss()(X, IDS.astype(float)), "target must have dtype int64, got"),
    (lambda: nn.CrossEntropyLoss()(X, IDS + 1), "target[1] = 5 is outside the classes 0..4"),
    (lambda: nn.CrossEntropyLoss(WEIGHT)(X, IDS - 1), "target[0] = -1 is outside the classes 0..4"),
    (
        lambda: nn.CrossEntropyLoss()(X, np.eye(5, dtype=np.int64)[:4]),
        "CrossEntropyLoss: target must be float64, as prediction is, got int64: use target.astype(",
    ),
    (lambda: nn.CrossEntropyLoss()(X, X), "CrossEntropyLoss: target["),
    (
        lambda: nn.CrossEntropyLoss()(X, probabilities(4, 6)),
        "(probabilities of classes), got (4, 6)",
    ),
    (
        lambda: nn.CrossEntropyLoss(ignore_index=0)(X, probabilities(4, 5)),
        "CrossEntropyLoss: ignore_index is an id and target holds probabilities: leave it out, got",
    ),
    (lambda: nn.NLLLoss()(X, probabilities(4, 5)), "target must have shape (4,), got (4, 5), "),
    (lambda: nn.MSELoss()(X, X[:3]), "MSELoss: target must have shape (4, 5), as prediction has"),
    (lambda: nn.MSELoss()(X, 1.0), "target must be an array, got float"),
    (lambda: nn.MSELoss()(X, X.astype(np.float32)), "must be float64, as prediction is, got"),
    (lambda: nn.MSELoss()(X, X.astype(np.int64)), "got int64: use target.astype(np.float64)"),
    (lambda: nn.MSELoss()(X.astype(np.float16), X.astype(np.float16)), "must be float32"),
    (lambda: nn.BCEWithLogitsLoss()(X, X), "is outside 0..1"),
    (lambda: nn.InfoNCELoss()(X, X[:3]), "InfoNCELoss: keys must have shape (4, 5), as q"),
    (lambda: nn.InfoNCELoss()(X[0], X[0]), "InfoNCELoss: queries must have shape (N, D), got (5,)"),
    (lambda: nn.InfoNCELoss()(X, None), "InfoNCELoss: keys must be an array, got NoneType"),
    (lambda: nn.InfoNCELoss()(X, F32), "InfoNCELoss: keys must be float64, as queries is, got"),
    (lambda: nn.CrossEntropyLoss()(X, IDS.astype(np.int32)), "int32: use target.astype(np.int64)"),
    (lambda: nn.CrossEntropyLoss()(X, IDS[:, None]), "must have shape (4,) (ids of classes) or (4"),
    (lambda: nn.CrossEntropyLoss()(X[0], IDS[0]), "target must be an array, got int64: use np."),
    (lambda: nn.CrossEntropyLoss()(X[0, 0], IDS), "prediction must be an array, got float64"),
    (lambda: nn.CrossEntropyLoss()(np.array(1.0), IDS), "prediction must have shape (..., V), got"),
    (lambda: nn.CrossEntropyLoss()(IDS, X), "got int64: the prediction comes before the target"),
    (lambda: nn.NLLLoss()(IDS, X), "got int64: the prediction comes before the target"),
    (lambda: nn.MSELoss()(X[:, :1], X[:, 0]), "target must have shape (4, 1), as prediction has"),
    (lambda: nn.MSELoss()(X[0, 0], X[0, 0]), "MSELoss: prediction must be an array, got float64"),
    (lambda: nn.BCEWithLogitsLoss()(X, X), "BCEWithLogitsLoss: target["),
    (lambda: nn.MSELoss()(X, Series(X)), "MSELoss: target must be an array, got Series: use np."),
    (lambda: nn.CrossEntropyLoss()(X, Series(IDS)), "got Series: use np.array(target, np.int64)"),
    (lambda: nn.ReLU()(Series(X)), "activation.forward: x: expected a numpy or cupy array, got"),
    (lambda: nn.Flatten()(Series(X)), "Flatten: x must be an array, got Series"),
    (lambda: LINEAR(Series(X)), "Linear: x must be an array, got Series: use np.array(x, np.float"),
    (lambda: nn.MSELoss(X, X), "MSELoss: reduction must be 'mean', 'sum' or 'none', got an array"),
    (lambda: nn.MSELoss(half="no"), "MSELoss: half must be True or False, got 'no'"),
    (lambda: nn.HuberLoss(delta=True), "HuberLoss: delta must be a number greater than 0, got T"),
    (lambda: nn.HuberLoss(delta=np.ones(1)), "HuberLoss: delta must be a number greater than 0, g"),
    (lambda: nn.InfoNCELoss(np.ones(1)), "InfoNCELoss: temperature must be a number greater than"),
    (lambda: nn.CrossEntropyLoss(X, IDS), "CrossEntropyLoss: weight must have shape (V,), got (4"),
    (lambda: nn.CrossEntropyLoss(label_smoothing=True), "label_smoothing must be in 0..1, got"),
    (lambda: nn.LeakyReLU(np.ones(1)), "LeakyReLU: negative_slope must be a number of at least 0"),
    (lambda: nn.Dropout(np.zeros(1)), "Dropout: p must be at least 0 and less than 1, got array("),
]  # fmt: skip


@pytest.mark.parametrize(("call", "sentence"), WRONG, ids=[sentence for _, sentence in WRONG])
def test_mistakes_are_named(call, sentence):
    with pytest.raises((ValueError, TypeError, IndexError), match=re.escape(sentence)) as caught:
        call()
    assert "\n" not in str(caught.value)


@every
def test_every_cpu_kernel_gives_the_same_within_rounding(name):
    inputs = [a.astype(np.float32) if a.dtype == np.float64 else a for a in EVERY[name]()]
    values = []
    for native in backend.cpu_modules():
        with backend.use_cpu(native):
            values.append(float(getattr(nn, name)()(*inputs)))
    np.testing.assert_allclose(values, float(getattr(nn, name)()(*EVERY[name]())), rtol=1e-5)
