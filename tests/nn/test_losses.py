"""The losses: PyTorch's values and gradients for every option, and finite differences. What all
losses have in common, and mistakes, are in test_all_losses.py.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from byhand import gradcheck, nn, ops
from tests.ops.test_pointwise_loss import losses_of_torch

REDUCTIONS = ("mean", "sum", "none")
SHAPES = ((5,), (3, 7), (2, 3, 4), (1,), ())
WEIGHT = [0.5, 0.0, 2.0, 1.0, 0.3]

# A loss, its options, and its function of `ops.pointwise_loss` with the constant.
ELEMENTWISE = {
    "MSELoss()": ("MSELoss", {}, "squared", 1.0),
    "MSELoss(half)": ("MSELoss", {"half": True}, "squared", 0.5),
    "HuberLoss()": ("HuberLoss", {}, "huber", 1.0),
    "HuberLoss(0.3)": ("HuberLoss", {"delta": 0.3}, "huber", 0.3),
    "BCEWithLogitsLoss()": ("BCEWithLogitsLoss", {}, "bce", 1.0),
    "BCEWithLogitsLoss(2.5)": ("BCEWithLogitsLoss", {"pos_weight": 2.5}, "bce", 2.5),
}


def reduced(each, reduction: str):
    return each if reduction == "none" else getattr(each, reduction)()


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).standard_normal(shape))


def probabilities(*shape: int, seed: int = 1) -> np.ndarray:
    """Rows of probabilities."""
    e = np.exp(random(*shape, seed=seed))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def elementwise_inputs(name: str, shape, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x, t = random(*shape, seed=seed), random(*shape, seed=seed + 100)
    return x, np.asarray(1 / (1 + np.exp(-t))) if name.startswith("BCE") else t


def check_differences(loss, prediction, *others, places: int = 1) -> None:
    """The gradients of the first `places` inputs, along random directions, in float64."""
    inputs = [prediction, *others]
    rng = np.random.default_rng(3)
    dloss = np.asarray(rng.standard_normal(loss(*inputs).shape))
    found = loss.backward(dloss)
    found = found if isinstance(found, tuple) else (found,)
    for i in range(places):
        for _ in range(2):
            way = np.asarray(rng.standard_normal(inputs[i].shape))

            def at(step: float) -> float:
                moved = [*inputs[:i], inputs[i] + step * way, *inputs[i + 1 :]]  # noqa: B023
                with loss.no_save():
                    return float(np.vdot(loss(*moved), dloss))

            numeric = (at(1e-5) - at(-1e-5)) / 2e-5
            size = max(abs(numeric), float(np.linalg.norm(found[i])), 1e-3)
            assert abs(numeric - float(np.vdot(found[i], way))) / size < 1e-6


def compare(loss, inputs, theirs, tensor, dtype: str, seed: int = 5) -> None:
    """Value and gradient of a loss against PyTorch's `theirs` of `tensor`."""
    import torch

    value = loss(*inputs)
    assert value.shape == tuple(theirs.shape)
    assert value.dtype == dtype
    dloss = random(*value.shape, seed=seed).astype(dtype)
    dx = loss.backward(dloss)
    assert dx.shape == inputs[0].shape
    assert dx.dtype == dtype
    expected = torch.zeros_like(tensor)
    if theirs.requires_grad:
        (expected,) = torch.autograd.grad(theirs, tensor, torch.from_numpy(dloss).double())
    close = 1e-9 if dtype == "float64" else 3e-6
    for mine, other in ((value, theirs.detach().numpy()), (dx, expected.numpy())):
        np.testing.assert_allclose(mine, other, rtol=close, atol=close)


# --- Of each element ------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("name", "options", "function", "a"), ELEMENTWISE.values(), ids=ELEMENTWISE
)
def test_a_loss_of_elements_is_pytorchs(name, options, function, a, dtype, reduction):
    torch = pytest.importorskip("torch")
    loss = getattr(nn, name)(reduction=reduction, **options)
    for shape in SHAPES:
        x, t = (np.asarray(a, dtype) for a in elementwise_inputs(name, shape))
        tensor = torch.tensor(x, dtype=torch.float64, requires_grad=True)
        each = losses_of_torch(function, tensor, torch.tensor(t, dtype=torch.float64), a)
        compare(loss, (x, t), reduced(each, reduction), tensor, dtype)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("name", "options"), [v[:2] for v in ELEMENTWISE.values()])
def test_the_gradient_of_a_loss_of_elements(name, options, reduction):
    loss = getattr(nn, name)(reduction=reduction, **options)
    for seed in range(20):
        check_differences(loss, *elementwise_inputs(name, (3, 5), seed))


@pytest.mark.parametrize("name", ["MSELoss", "HuberLoss", "BCEWithLogitsLoss"])
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_no_elements_have_a_loss_of_0(name, shape, dtype):
    x = np.ones(shape, dtype)
    for reduction in REDUCTIONS:
        loss = getattr(nn, name)(reduction)
        value = loss(x, x)
        assert value.shape == (shape if reduction == "none" else ())
        assert not value.any()
        assert loss.backward(np.ones_like(value)).shape == shape


def test_the_sum_of_squared_errors():
    sse = nn.MSELoss(reduction="sum")
    assert sse(np.array([1.0, 2.0]), np.array([0.0, 4.0])) == 5
    np.testing.assert_array_equal(sse.backward(), [2, -4])
    half = nn.MSELoss("sum", half=True)
    assert half(np.array([1.0, 2.0]), np.array([0.0, 4.0])) == 2.5
    np.testing.assert_array_equal(half.backward(), [1, -2])


# --- Of classes -----------------------------------------------------------------------------------


def class_inputs(dtype: str, ignore: int = -100, shape=(4, 6)):
    """Logits (4, 6, 5), ids of which some are `ignore`, and rows of probabilities."""
    x = random(*shape, 5).astype(dtype)
    ids = np.random.default_rng(2).integers(0, 5, shape)
    ids[..., ::4] = ignore
    return x, ids, probabilities(*shape, 5).astype(dtype)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("ignore", [-100, 2])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_cross_entropy_of_ids_is_pytorchs(dtype, ignore, smoothing, weight, reduction):
    torch = pytest.importorskip("torch")
    x, ids, _ = class_inputs(dtype, ignore)
    loss = nn.CrossEntropyLoss(weight, ignore, reduction, smoothing)
    tensor = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    theirs = torch.nn.CrossEntropyLoss(
        None if weight is None else torch.tensor(weight, dtype=torch.float64),
        ignore_index=ignore,
        reduction=reduction,
        label_smoothing=smoothing,
    )(tensor.movedim(-1, 1), torch.from_numpy(ids))
    compare(loss, (x, ids), theirs, tensor, dtype)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("hot", [False, True], ids=["probabilities", "one-hot"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_cross_entropy_of_probabilities_is_pytorchs(dtype, hot, smoothing, weight, reduction):
    torch = pytest.importorskip("torch")
    x, ids, target = class_inputs(dtype, ignore=0, shape=(24,))
    if hot:
        target = np.eye(5, dtype=dtype)[ids]
    loss = nn.CrossEntropyLoss(weight, reduction=reduction, label_smoothing=smoothing)
    tensor = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    theirs = torch.nn.CrossEntropyLoss(
        None if weight is None else torch.tensor(weight, dtype=torch.float64),
        reduction=reduction,
        label_smoothing=smoothing,
    )(tensor, torch.tensor(target, dtype=torch.float64))
    compare(loss, (x, target), theirs, tensor, dtype)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
@pytest.mark.parametrize("ignore", [-100, 2])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_nll_is_pytorchs(dtype, ignore, weight, reduction):
    """Of any numbers, as in PyTorch: they need not be log-probabilities."""
    torch = pytest.importorskip("torch")
    x, ids, _ = class_inputs(dtype, ignore)
    loss = nn.NLLLoss(weight, ignore, reduction)
    tensor = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    theirs = torch.nn.NLLLoss(
        None if weight is None else torch.tensor(weight, dtype=torch.float64),
        ignore_index=ignore,
        reduction=reduction,
    )(tensor.movedim(-1, 1), torch.from_numpy(ids))
    compare(loss, (x, ids), theirs, tensor, dtype)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nll_of_log_softmax_is_cross_entropy(reduction):
    x, ids, _ = class_inputs("float64")
    nll, both = nn.NLLLoss(WEIGHT, reduction=reduction), nn.CrossEntropyLoss(WEIGHT)
    both.reduction = reduction
    log_p, saved = ops.log_softmax.forward(x)
    np.testing.assert_allclose(nll(log_p, ids), both(x, ids), rtol=1e-12)
    dloss = random(*(ids.shape if reduction == "none" else ()))
    dx = ops.log_softmax.backward(nll.backward(dloss), saved)
    np.testing.assert_allclose(dx, both.backward(dloss), atol=1e-14)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_gradients_of_the_losses_of_classes(smoothing, weight, reduction):
    for shape in ((3, 4), (7,)):
        x, ids, target = class_inputs("float64", shape=shape)
        loss = nn.CrossEntropyLoss(weight, -100, reduction, smoothing)
        check_differences(loss, x, ids)
        check_differences(loss, x, target)
        check_differences(nn.NLLLoss(weight, -100, reduction), x, ids)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("make", [nn.CrossEntropyLoss, nn.NLLLoss])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
def test_without_a_target_that_counts_the_loss_is_0(make, weight, dtype):
    """Also without rows; PyTorch's mean is NaN."""
    for rows in (3, 0):
        x, ids = random(rows, 5).astype(dtype), np.full(rows, -100)
        for reduction in REDUCTIONS:
            loss = make(weight, reduction=reduction)
            value = loss(x, ids)
            assert value.shape == ((rows,) if reduction == "none" else ())
            assert not value.any()
            dx = loss.backward(np.ones_like(value))
            assert dx.shape == x.shape
            assert not dx.any()


def test_weights_that_are_all_0_give_a_loss_of_0():
    loss = nn.CrossEntropyLoss(np.zeros(5))
    assert loss(random(3, 5), np.array([0, 1, 4])) == 0
    assert not loss.backward().any()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_class_weights_in_any_form(dtype):
    """A list, an array of any dtype and layout; later changes of it have no effect."""
    x, ids, _ = class_inputs(dtype)
    own = np.array([1, 9, 0, 9, 2, 9, 1, 9, 3, 9])[::2]
    forms = [own.tolist(), tuple(own.tolist()), own, own.astype(np.float32)]
    losses = [nn.CrossEntropyLoss(form) for form in forms]
    own[...] = 7
    assert len({float(loss(x, ids)) for loss in losses}) == 1


def test_plain_cross_entropy_is_that_of_the_op():
    """GPT's loss, bit for bit."""
    x, ids, _ = class_inputs("float32")
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    expected, saved = ops.cross_entropy.forward(x, ids, -100, 0.1)
    assert loss(x, ids).tobytes() == expected.tobytes()
    assert loss.backward().tobytes() == ops.cross_entropy.backward(1.0, saved).tobytes()


# --- Pairs ----------------------------------------------------------------------------------------


def info_nce_of_torch(queries, keys, temperature: float, reduction: str):
    import torch
    import torch.nn.functional as f

    similarity = f.normalize(queries, dim=1) @ f.normalize(keys, dim=1).T / temperature
    return f.cross_entropy(similarity, torch.arange(len(queries)), reduction=reduction)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("temperature", [0.07, 0.5, 3.0])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_info_nce_is_that_of_pytorchs_parts(dtype, temperature, reduction):
    torch = pytest.importorskip("torch")
    for rows, columns in ((5, 7), (1, 3), (17, 2), (4, 1)):
        q, k = (random(rows, columns, seed=seed).astype(dtype) for seed in (1, 2))
        loss = nn.InfoNCELoss(temperature, reduction)
        tensors = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in (q, k)]
        theirs = info_nce_of_torch(*tensors, temperature, reduction)
        value = loss(q, k)
        dloss = random(*value.shape).astype(dtype)
        found = loss.backward(dloss)
        expected = torch.autograd.grad(theirs, tensors, torch.from_numpy(dloss).double())
        close = 1e-9 if dtype == "float64" else 3e-5
        np.testing.assert_allclose(value, theirs.detach().numpy(), rtol=close, atol=close)
        for mine, other in zip(found, expected, strict=True):
            assert mine.dtype == dtype
            size = max(float(other.abs().max()), 1e-3)
            np.testing.assert_allclose(mine, other.numpy(), atol=close * size)


def test_a_row_of_zeros_in_info_nce_is_divided_by_1e_12_as_in_pytorch():
    torch = pytest.importorskip("torch")
    q, k = random(4, 3), random(4, 3, seed=1)
    k[1] = 0
    tensors = [torch.tensor(a, requires_grad=True) for a in (q, k)]
    theirs = info_nce_of_torch(*tensors, 0.5, "mean")
    loss = nn.InfoNCELoss(0.5)
    assert loss(q, k) == pytest.approx(theirs.item(), rel=1e-12)
    found = loss.backward()
    for mine, other in zip(found, torch.autograd.grad(theirs, tensors), strict=True):
        np.testing.assert_allclose(mine, other.numpy(), rtol=1e-9)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_gradients_of_info_nce(reduction):
    for seed in range(20):
        q, k = random(5, 3, seed=seed), random(5, 3, seed=seed + 100)
        check_differences(nn.InfoNCELoss(0.4, reduction), q, k, places=2)


def test_losses_pass_gradcheck():
    for seed in range(20):
        x, ids, _ = class_inputs("float64", shape=(6,))
        x = random(*x.shape, seed=seed)
        gradcheck(nn.CrossEntropyLoss(WEIGHT, label_smoothing=0.1), x, ids, seed=seed)
        gradcheck(nn.NLLLoss(WEIGHT, reduction="none"), x, ids, seed=seed)
        gradcheck(nn.InfoNCELoss(0.3), x, random(6, 5, seed=seed + 100), seed=seed)


def test_info_nce_of_equal_pairs_is_small_and_of_large_and_zero_rows_finite():
    rows = np.eye(6)
    assert nn.InfoNCELoss(0.05)(rows, 3 * rows) == pytest.approx(0, abs=1e-7)
    assert nn.InfoNCELoss(1.0)(rows, rows) == pytest.approx(math.log(1 + 5 / math.e))
    loss = nn.InfoNCELoss()
    q, k = 1e4 * random(4, 3).astype(np.float32), random(4, 3, seed=1).astype(np.float32)
    k[1] = 0
    assert np.isfinite(loss(q, k))
    assert all(np.isfinite(dx).all() for dx in loss.backward())


def test_info_nce_without_rows_is_0():
    loss = nn.InfoNCELoss()
    assert loss(np.ones((0, 3)), np.ones((0, 3))) == 0
    assert [dx.shape for dx in loss.backward()] == [(0, 3), (0, 3)]
