"""Losses of each element: the cases, large values, and NaN."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import strategies as st

from byhand import ops
from byhand.ops.pointwise_loss import NAMES
from tests.cuda.rules import Rule
from tests.kernel_case import FORWARD, Bug, Call, Cuda, Error, Op, Sample, generator, normal
from tests.ops.sizes import SHAPE
from tests.ops.suite import OpSuite, native_kernels


def sample(
    *shape: int, name: str, a: float = 1.0, reduction: str = "mean", size: float = 2.0
) -> Sample:
    """reduction "both": the sum of the losses and each of them."""
    label = f"{'x'.join(map(str, shape))}-{name}-{reduction}" + (f"-a {a:g}" if a != 1 else "")
    label += f"-size {size:g}" if size != 2 else ""
    rng = generator("pointwise_loss", label)
    x = np.float32(size) * normal(rng, *shape)
    t = np.asarray(rng.random(shape), np.float32) if name == "bce" else normal(rng, *shape)
    if name == "bce":  # most targets are 0 or 1
        t = np.where(rng.random(shape) < 0.7, np.round(t), t).astype(np.float32)
    options = {"function": NAMES.index(name), "a": a, "mean": reduction == "mean"}
    return Sample(
        label,
        {"prediction": np.asarray(x, np.float32), "target": t},
        {**options, "reduction": reduction},
        smooth=size < 100,
    )


def of_reduction(reduction: str, loss, losses) -> dict:
    """What the forward kernel writes."""
    if reduction == "both":
        return {"loss": loss, "losses": losses}
    return {"losses": losses} if reduction == "none" else {"loss": loss}


def shapes(s: Sample) -> dict[str, tuple[int, ...]]:
    return of_reduction(s.options["reduction"], (), s.arrays["prediction"].shape)


def losses_of_torch(name: str, x, t, a: float):
    import torch
    import torch.nn.functional as f

    if name == "squared":
        return a * f.mse_loss(x, t, reduction="none")
    if name == "huber":
        return f.huber_loss(x, t, reduction="none", delta=a)
    weight = torch.tensor(a, dtype=x.dtype)
    return f.binary_cross_entropy_with_logits(x, t, reduction="none", pos_weight=weight)


def torch_forward(t, o):
    each = losses_of_torch(NAMES[o["function"]], t.prediction, t.target, o["a"])
    loss = each.sum() / (max(each.numel(), 1) if o["mean"] else 1)
    return of_reduction(o["reduction"], loss, each)


def public(c: Call):
    o = c.options
    arguments = c.arrays["prediction"], c.arrays["target"], NAMES[o["function"]], o["a"]
    if o["reduction"] == "both":
        return {"losses": ops.pointwise_loss.forward(*arguments, "none")[0]}
    loss, saved = ops.pointwise_loss.forward(*arguments, o["reduction"])
    y = "losses" if o["reduction"] == "none" else "loss"
    return {y: loss, "dx": ops.pointwise_loss.backward(c.upstream[f"d{y}"], saved)}


def backward_of_each(dloss):
    _, saved = ops.pointwise_loss.forward(np.ones(3), np.ones(3), "squared", 1.0, "none")
    return ops.pointwise_loss.backward(dloss, saved)


BUGS = (
    Bug("not squared", "pointwise_loss_forward", "a * (d * d)", "a * d", "value", FORWARD),
    Bug("slope without 2", "pointwise_loss_backward", "2 * a * (x - t)", "a * (x - t)", "slope"),
    Bug("sign of the slope", "pointwise_loss_backward", "2 * a * (x - t)", "2 * a * (t - x)",
        "slope"),
    Bug("jump at delta", "pointwise_loss_forward", "a * (d - a / 2)", "a * d", "value",
        "torch native"),
    Bug("slope not cut below", "pointwise_loss_backward", "np.clip(x - t, -a, a)",
        "np.minimum(x - t, a)", "slope"),
    Bug("cut at 1", "pointwise_loss_backward", "np.clip(x - t, -a, a)", "np.clip(x - t, -1, 1)",
        "slope"),
    Bug("classes swapped", "pointwise_loss_forward", "np.maximum(-x, 0)", "np.maximum(x, 0)",
        "value", FORWARD),
    Bug("weight of the wrong class", "pointwise_loss_forward", "(1 - t) * (np", "a * (1 - t) * (np",
        "value"),
    Bug("weight not in the slope", "pointwise_loss_backward", "- a * t *", "- t *", "slope"),
    Bug("sigmoid of -x", "pointwise_loss_backward", "(1 - t) * sigmoid(x)",
        "(1 - t) * sigmoid(-x)", "slope"),
    Bug("always the sum", "pointwise_loss_forward", "if mean", "if False"),
    Bug("always the mean", "pointwise_loss_backward", "if mean else dloss", "if True else dloss"),
    Bug("dloss forgotten beside dlosses", "pointwise_loss_backward", "k + dlosses", "dlosses"),
)  # fmt: skip

OP = Op(
    name="pointwise_loss",
    forward="pointwise_loss_forward",
    backward="pointwise_loss_backward",
    samples=(
        *(sample(3, 17, name=name, reduction=r) for name in NAMES for r in ("both", "none")),
        *(sample(2, 3, 17, name=name, a=0.4) for name in NAMES),
        *(sample(31, 33, name=name, a=2.5, reduction="sum") for name in NAMES),
        *(sample(3, 129, name=name, size=1e4, reduction="both") for name in NAMES),
        sample(name="squared"),
        sample(name="huber", reduction="none"),
        sample(0, 3, name="bce"),
        sample(3, 0, name="squared", reduction="sum"),
        sample(0, name="huber", reduction="both"),
        sample(1, name="huber"),
        sample(15, 16, name="bce", reduction="both"),
        sample(127, 31, name="squared", a=0.5),
        sample(2, 1023, name="bce", reduction="none"),
        sample(4097, name="huber"),
        sample(3, 4111, name="bce"),
    ),
    big=sample(1023, 129, name="bce", reduction="both"),
    shapes=shapes,
    upstream={"loss": "dloss", "losses": "dlosses"},
    gradients={"prediction": "dx"},
    torch=torch_forward,
    public=public,
    rows={
        "pointwise_loss_forward": ("prediction", ("losses",)),
        "pointwise_loss_backward": ("prediction", ("dx",)),
    },
    planted=BUGS,
    drawn=st.builds(
        lambda shape, name, r: sample(*shape, name=name, reduction=r),
        SHAPE,
        st.sampled_from(NAMES),
        st.sampled_from(["mean", "sum", "none", "both"]),
    ),
    past_caches=True,
    cuda=Cuda(
        wide=lambda: [sample(2100, 4099, name="squared", reduction="both")],  # a second round
        instructions=(
            Rule("pointwise_loss_forward_elements", loads=2),
            Rule("pointwise_loss_backward_elements", loads=2),
        ),
        inexact=("pointwise_loss_forward", "pointwise_loss_backward"),
    ),
    errors=(
        Error(
            ValueError,
            "pointwise_loss.forward: function must be one of squared, huber, bce, got 'mse'",
            lambda: ops.pointwise_loss.forward(np.ones(3), np.ones(3), "mse"),  # type: ignore[arg-type]
        ),
        Error(
            ValueError,
            "pointwise_loss.forward: a must be a number greater than 0, got 0",
            lambda: ops.pointwise_loss.forward(np.ones(3), np.ones(3), "huber", 0),
        ),
        Error(
            ValueError,
            "pointwise_loss.forward: reduction must be 'mean', 'sum' or 'none', got 'maen' (did "
            "you mean mean?)",
            lambda: ops.pointwise_loss.forward(np.ones(3), np.ones(3), "huber", 1.0, "maen"),  # type: ignore[arg-type]
        ),
        Error(
            ValueError,
            "pointwise_loss.forward: target[1, 0] = 1.5 is outside 0..1",
            lambda: ops.pointwise_loss.forward(np.ones((2, 1)), np.array([[0], [1.5]]), "bce"),
        ),
        Error(
            ValueError,
            "pointwise_loss.forward: target = 1.5 is outside 0..1",
            lambda: ops.pointwise_loss.forward(np.ones(()), np.asarray(1.5), "bce"),
        ),
        Error(
            TypeError,
            "pointwise_loss_forward: target must be float64, got a numpy array of dtype int64",
            lambda: ops.pointwise_loss.forward(np.ones(3), np.ones(3, np.int64), "squared"),
        ),
        Error(
            TypeError,
            "pointwise_loss.forward: prediction is float32 and target is float64",
            lambda: ops.pointwise_loss.forward(np.ones(3, np.float32), np.ones(3), "squared"),
        ),
        Error(
            ValueError,
            "pointwise_loss.backward: dloss must have shape (3,), got ()",
            lambda: backward_of_each(np.ones(())),
        ),
        Error(
            TypeError,
            "pointwise_loss.backward: dloss must be an array, got float",
            lambda: backward_of_each(1.0),
        ),
    ),
)  # fmt: skip


class TestPointwiseLoss(OpSuite):
    op = OP

    @pytest.mark.parametrize("number", [-1, len(NAMES)])
    def test_a_number_without_a_function_is_refused(self, native: str, number: int) -> None:
        kernels = native_kernels(native)
        loss, x = np.ones((), np.float32), np.ones(3, np.float32)
        with pytest.raises(ValueError, match="pointwise_loss_forward: there is no such function"):
            kernels.pointwise_loss_forward(loss, None, x, x, number, 1.0, True)
        with pytest.raises(ValueError, match="pointwise_loss_backward: there is no such function"):
            kernels.pointwise_loss_backward(x.copy(), loss, None, x, x, number, 1.0, True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("a", [1.0, 3.0])
def test_far_from_zero_each_element_is_as_pytorch_has_it(name, a, dtype) -> None:
    """Element by element, with nothing larger beside it to widen what is allowed."""
    torch = pytest.importorskip("torch")
    x = np.array([-1e4, -90, -30, -5, -1e-3, 0, 1e-3, 5, 30, 90, 1e4], dtype)
    for target in (0.0, 0.25, 1.0):
        target = np.full_like(x, target)
        t = torch.tensor(x, dtype=torch.float64, requires_grad=True)
        theirs = losses_of_torch(name, t, torch.from_numpy(target).double(), a)
        (dx_of_torch,) = torch.autograd.grad(theirs.sum(), t)
        losses, saved = ops.pointwise_loss.forward(x, target, name, a, "none")
        dx = ops.pointwise_loss.backward(np.ones_like(x), saved)
        # PyTorch's bce is a difference, with an absolute error near 0.
        close = dict(rtol=1e-12, atol=1e-14) if dtype == "float64" else dict(rtol=3e-6, atol=1e-7)
        np.testing.assert_allclose(losses, theirs.detach().numpy(), **close)
        np.testing.assert_allclose(dx, dx_of_torch.numpy(), **close)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_targets_of_bce_are_in_0_to_1(dtype) -> None:
    """Both ends are, -0 and NaN too; the numbers next to them are not."""
    x = np.zeros((2, 3), dtype)
    good = np.array([[0, 1, 0.5], [-0.0, np.nan, np.finfo(dtype).tiny]], dtype)
    ops.pointwise_loss.forward(x, good, "bce")
    above = np.nextafter(np.ones((), dtype), np.asarray(2, dtype))
    for bad in (above, -1e-30, np.inf, -np.inf):
        target = good.copy()
        target[1, 2] = bad
        with pytest.raises(ValueError, match=r"target\[1, 2\] = \S+ is outside 0\.\.1$"):
            ops.pointwise_loss.forward(x, target, "bce")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_tail_of_a_confident_logit_is_not_lost(dtype) -> None:
    """s(x) - 1 in floating point would be 0 from x = 17 (float32) or 37 on."""
    x, ones = np.array([20.0, 40.0, 80.0], dtype), np.ones(3, dtype)
    losses, saved = ops.pointwise_loss.forward(x, ones, "bce", 1.0, "none")
    np.testing.assert_allclose(losses, np.exp(-x.astype(np.float64)), rtol=1e-5)
    dx = ops.pointwise_loss.backward(ones, saved)
    np.testing.assert_allclose(dx, -np.exp(-x.astype(np.float64)), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("of", ["prediction", "target"])
def test_a_nan_stays_in_its_element(name, of, dtype) -> None:
    x = normal(generator("pointwise_loss", "nan", name), 67).astype(dtype)
    t = np.linspace(0, 1, 67).astype(dtype)
    dy = normal(generator("pointwise_loss", "nan dy", name), 67).astype(dtype)
    clean, saved = ops.pointwise_loss.forward(x, t, name, 1.0, "none")
    clean_dx = ops.pointwise_loss.backward(dy, saved)
    others = np.arange(67) != 33
    (x if of == "prediction" else t)[33] = np.nan
    losses, saved = ops.pointwise_loss.forward(x, t, name, 1.0, "none")
    dx = ops.pointwise_loss.backward(dy, saved)
    assert np.isnan(losses[33])
    assert np.isnan(dx[33])
    assert np.array_equal(losses[others], clean[others])
    assert np.array_equal(dx[others], clean_dx[others])
    assert math.isnan(ops.pointwise_loss.forward(x, t, name)[0])


@pytest.mark.parametrize("name", NAMES)
def test_the_defaults_are_1_and_the_mean(name) -> None:
    x, t = np.array([3.0, -2.0, 0.5]), np.array([0.0, 1.0, 0.25])
    default, _ = ops.pointwise_loss.forward(x, t, name)
    assert default == ops.pointwise_loss.forward(x, t, name, 1.0, "mean")[0]
    assert default != ops.pointwise_loss.forward(x, t, name, 2.0)[0]


def test_the_sum_of_many_losses_is_accurate() -> None:
    """A sum in float32 alone would be off by a thousandth."""
    x = np.full(1 << 20, 0.1, np.float32)
    loss, _ = ops.pointwise_loss.forward(x, np.zeros_like(x), "squared", 1.0, "sum")
    assert loss == pytest.approx(float(np.float32(0.1)) ** 2 * (1 << 20), rel=1e-6)
