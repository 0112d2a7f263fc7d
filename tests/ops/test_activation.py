"""Activation functions: the cases, the ends of their range, and NaN."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import strategies as st

from byhand import ops
from byhand.ops import activation
from byhand.ops.activation import NAMES, NUMBERED, rule_of
from tests.cuda.rules import Rule
from tests.kernel_case import FORWARD, Bug, Call, Cuda, Error, Op, Sample, generator, normal
from tests.ops.sizes import SHAPE
from tests.ops.suite import OpSuite, native_kernels

# Options other than the defaults, for the functions that have some.
OPTIONS = {
    "leaky_relu": {"negative_slope": 0.3},
    "elu": {"alpha": 0.7},
    "softplus": {"beta": 1.7, "threshold": 0.8},
}
EVERY = [(name, {}) for name in NAMES] + list(OPTIONS.items())


def away_from_kinks(x, function, a, b):
    """x without values close to a jump or a kink of f, where rounding decides on which side."""
    x = np.where(np.abs(x) < 0.01, x + np.float32(0.03), x)
    if function == NUMBERED.index("softplus"):
        x = np.where(np.abs(a * x - b) < 0.02, x + np.float32(0.05 / a), x)
    return x.astype(np.float32)


def sample(*shape: int, name: str, size: float = 2.0, **options: float) -> Sample:
    label = f"{'x'.join(map(str, shape))}-{name}" + (f"-size {size:g}" if size != 2 else "")
    label += "".join(f"-{option} {value:g}" for option, value in options.items())
    rule = rule_of("sample", name, **options)
    x = np.float32(size) * normal(generator("activation", label), *shape)
    return Sample(
        label,
        {"x": away_from_kinks(x, rule.number, rule.a, rule.b)},
        {"function": rule.number, "a": rule.a, "b": rule.b},
        smooth=size < 100,
    )


def torch_function(name: str, **options: float):
    """PyTorch's function of the same name and options."""
    import torch
    import torch.nn.functional as f

    if name == "step":
        return lambda x: (x >= 0).to(x.dtype) + 0 * x
    if name in ("sigmoid", "tanh"):
        return getattr(torch, name)
    if name.startswith("gelu"):
        form = "tanh" if name == "gelu_tanh" else "none"
        return lambda x: f.gelu(x, approximate=form)
    return lambda x: getattr(f, name)(x, **options)


def torch_forward(t, o):
    """From the constants of the kernels, as selu is elu there."""
    import torch.nn.functional as f

    name, a, b = NUMBERED[o["function"]], o["a"], o["b"]
    if name == "elu":
        return {"y": f.elu(t.x, a) if b == 1 else f.selu(t.x)}
    options = {"leaky_relu": {"negative_slope": a}, "softplus": {"beta": a, "threshold": b}}
    return {"y": torch_function(name, **options.get(name, {}))(t.x)}


def public(c: Call):
    number, a, b = (c.options[name] for name in ("function", "a", "b"))
    name = NUMBERED[number]
    options = {
        "leaky_relu": {"negative_slope": a},
        "elu": {"alpha": a},
        "softplus": {"beta": a, "threshold": b},
    }.get(name, {})
    if name == "elu" and b != 1:
        name, options = "selu", {}
    y, saved = ops.activation.forward(c.arrays["x"], name, **options)
    return {"y": y, "dx": ops.activation.backward(c.upstream["dy"], saved)}


BUGS = (
    Bug("step of -x", "activation_forward", "x >= 0", "x <= 0", "value", FORWARD),
    Bug("relu cut at 1", "activation_forward", "np.maximum(x, 0)", "np.maximum(x, 1)", "value"),
    Bug("slope of relu is 1", "activation_backward", "<= 0, 0, dy", "<= 0, dy, dy", "gradient"),
    Bug("slope not applied", "activation_forward", "a * x)", "x)", "value"),
    Bug("slope of negative x is 1", "activation_backward", "dy, a * dy", "dy, dy", "gradient"),
    Bug("elu without alpha", "activation_forward", "a * np.expm1", "np.expm1", "value"),
    Bug("selu without its scale", "activation_forward", "b * x", "x", "value"),
    Bug("alpha forgotten", "activation_backward", "saved + a", "saved + 1", "gradient"),
    Bug("scale forgotten", "activation_backward", "> 0, b", "> 0, 1", "gradient"),
    Bug("sigmoid's slope is y", "activation_backward", "(saved * (1 - saved))", "saved",
        "gradient"),
    Bug("tanh's slope is 1 - y", "activation_backward", "(1 - saved) * (1 + saved)",
        "1 - saved", "gradient"),
    Bug("silu's x forgotten", "activation_backward", "saved * (1 - s)", "(1 - s)", "gradient"),
    Bug("not divided by beta", "activation_forward", "/ a", "/ 1", "value"),
    Bug("no threshold", "activation_forward", "z > b", "z > 1e9", "value"),
    Bug("threshold without beta", "activation_backward", "a * saved > b", "saved > b", "gradient"),
    Bug("forms of gelu swapped", "activation_forward", 'name == "gelu_tanh"', 'name == "gelu"',
        "value"),
    Bug("dy forgotten", "activation_backward", "return dy * gelu", "return gelu", "gradient"),
)  # fmt: skip

OP = Op(
    name="activation",
    forward="activation_forward",
    backward="activation_backward",
    samples=(
        *(sample(2, 3, 17, name=name, **options) for name, options in EVERY),
        *(sample(3, 129, name=name, size=1e4, **options) for name, options in EVERY),
        *(sample(1031, name=name) for name in NAMES),
        sample(name="sigmoid"),
        sample(0, 3, name="relu"),
        sample(3, 0, name="silu"),
        sample(1, name="selu"),
        sample(15, 16, name="elu", alpha=0.0),
        sample(31, 33, name="leaky_relu", negative_slope=0.0),
        sample(5, 7, name="softplus", threshold=math.inf),
        sample(5, 7, name="softplus", threshold=-1.0),
        sample(127, 31, name="tanh"),
        sample(2, 1023, name="gelu"),
        sample(3, 1025, name="softplus"),
    ),
    big=sample(1023, 129, name="silu"),
    shapes=lambda s: {"y": s.arrays["x"].shape},
    upstream={"y": "dy"},
    gradients={"x": "dx"},
    torch=torch_forward,
    public=public,
    in_place=(("activation_forward", "y", "x"), ("activation_backward", "dx", "dy")),
    rows={"activation_forward": ("x", ("y",)), "activation_backward": ("dy", ("dx",))},
    planted=BUGS,
    drawn=st.builds(
        lambda shape, name: sample(*shape, name=name), SHAPE, st.sampled_from(sorted(NAMES))
    ),
    past_caches=True,
    cuda=Cuda(
        instructions=(
            Rule("activation_forward_elements"),
            Rule("activation_backward_elements", loads=2),  # dy, and x or y
        ),
        inexact=("activation_forward", "activation_backward"),
    ),
    errors=(
        Error(
            ValueError,
            "activation.forward: function must be one of step, sigmoid, tanh, relu, leaky_relu, "
            "elu, gelu, gelu_tanh, silu, softplus, selu, got 'rleu' (did you mean relu?)",
            lambda: ops.activation.forward(np.ones(3), "rleu"),
        ),
        Error(
            ValueError,
            "softplus, selu, got None",
            lambda: ops.activation.forward(np.ones(3), None),  # type: ignore[arg-type]
        ),
        Error(
            ValueError,
            "softplus, selu, got ['relu']",
            lambda: ops.activation.forward(np.ones(3), ["relu"]),  # type: ignore[arg-type]
        ),
        Error(
            ValueError,
            "activation.forward: beta must be a number greater than 0, got [1.0]",
            lambda: ops.activation.forward(np.ones(3), "softplus", beta=[1.0]),  # type: ignore[arg-type]
        ),
        Error(
            ValueError,
            "activation.forward: relu has no option alpha",
            lambda: ops.activation.forward(np.ones(3), "relu", alpha=1.0),
        ),
        Error(
            ValueError,
            "activation.forward: negative_slope must be a number of at least 0, got -0.1",
            lambda: ops.activation.forward(np.ones(3), "leaky_relu", negative_slope=-0.1),
        ),
        Error(
            ValueError,
            "activation.forward: alpha must be a number of at least 0, got inf",
            lambda: ops.activation.forward(np.ones(3), "elu", alpha=math.inf),
        ),
        Error(
            ValueError,
            "activation.forward: beta must be a number greater than 0, got 0",
            lambda: ops.activation.forward(np.ones(3), "softplus", beta=0),
        ),
        Error(
            ValueError,
            "activation.forward: threshold must be a number, got nan",
            lambda: ops.activation.forward(np.ones(3), "softplus", threshold=math.nan),
        ),
        Error(
            ValueError,
            "activation.forward: beta must be a number greater than 0, got 'x'",
            lambda: ops.activation.forward(np.ones(3), "softplus", beta="x"),  # type: ignore[arg-type]
        ),
    ),
)


class TestActivation(OpSuite):
    op = OP

    @pytest.mark.parametrize("number", [-1, len(NUMBERED)])
    def test_a_number_without_a_function_is_refused(self, native: str, number: int) -> None:
        kernels = native_kernels(native)
        x = np.ones(3, np.float32)
        with pytest.raises(ValueError, match="activation_forward: there is no such function"):
            kernels.activation_forward(x.copy(), x, number, 1.0, 1.0)
        with pytest.raises(ValueError, match="activation_backward: there is no such function"):
            kernels.activation_backward(x.copy(), x, x, x, number, 1.0, 1.0)

    @pytest.mark.parametrize("name", NUMBERED)
    def test_the_array_that_the_slope_needs_must_be_there(self, native: str, name: str) -> None:
        x = np.ones(3, np.float32)
        given = (None, x) if name in activation.FROM_X else (x, None)
        with pytest.raises(ValueError, match="activation_backward: the function needs the other"):
            native_kernels(native).activation_backward(
                x.copy(), x, *given, NUMBERED.index(name), 1.0, 1.0
            )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "options"), EVERY, ids=lambda v: str(v))
def test_far_from_zero_each_element_is_as_pytorch_has_it(name, options, dtype) -> None:
    """Element by element, with nothing larger beside it to widen what is allowed."""
    torch = pytest.importorskip("torch")
    x = np.array([-1e4, -1e3, -90, -30, -5, 5, 30, 90, 1e3, 1e4], dtype)
    t = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    theirs = torch_function(name, **options)(t)
    (slope,) = torch.autograd.grad(theirs.sum(), t)
    y, saved = ops.activation.forward(x, name, **options)
    dx = ops.activation.backward(np.ones_like(x), saved)
    # softplus: PyTorch is x itself above its threshold, where the rest is below 1e-8
    close = dict(rtol=1e-12, atol=1e-15) if dtype == "float64" else dict(rtol=2e-6, atol=2e-7)
    np.testing.assert_allclose(y, theirs.detach().numpy(), **close)
    np.testing.assert_allclose(dx, slope.numpy(), **close)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_a_nan_stays_in_its_element(name, dtype) -> None:
    x = normal(generator("activation", "nan", name), 67).astype(dtype)
    dy = normal(generator("activation", "nan dy", name), 67).astype(dtype)
    clean, saved = ops.activation.forward(x, name)
    clean_dx = ops.activation.backward(dy, saved)
    others = np.arange(67) != 33
    bad = np.where(others, x, np.nan).astype(dtype)
    y, saved = ops.activation.forward(bad, name)
    dx = ops.activation.backward(dy, saved)
    assert np.isnan(y[33])
    assert np.array_equal(y[others], clean[others])
    assert np.array_equal(dx[others], clean_dx[others])
    upstream = np.where(others, dy, np.nan).astype(dtype)
    dx = ops.activation.backward(upstream, ops.activation.forward(np.abs(x), name)[1])
    assert np.isnan(dx[33]) == (name != "step")
    assert np.isfinite(dx[others]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("name", "at_zero", "slope"),
    [
        ("step", 1, 0),
        ("sigmoid", 0.5, 0.25),
        ("tanh", 0, 1),
        ("relu", 0, 0),
        ("leaky_relu", 0, 0.01),
        ("elu", 0, 1),
        ("selu", 0, 1.0507009873554805 * 1.6732632423543772),
        ("gelu", 0, 0.5),
        ("gelu_tanh", 0, 0.5),
        ("silu", 0, 0.5),
        ("softplus", math.log(2), 0.5),
    ],
)
def test_at_zero(name, at_zero, slope, dtype) -> None:
    """Where a function has a kink, the slope is the one of x <= 0, as in PyTorch."""
    for zero in (0.0, -0.0):
        y, saved = ops.activation.forward(np.array([zero], dtype), name)
        dx = ops.activation.backward(np.ones(1, dtype), saved)
        assert y[0] == pytest.approx(at_zero, rel=1e-6)
        assert dx[0] == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_at_infinity(name) -> None:
    """The limits; -inf times 0 is NaN in gelu and silu, as in PyTorch."""
    expected = {"step": 1, "sigmoid": 1, "tanh": 1}.get(name, np.inf)
    y, _ = ops.activation.forward(np.array([np.inf], np.float32), name)
    assert y[0] == expected
    if name in ("gelu", "gelu_tanh", "silu"):
        return
    lowest = {"tanh": -1, "leaky_relu": -np.inf, "elu": -1, "selu": np.float32(-1.7580993408473766)}
    y, _ = ops.activation.forward(np.array([-np.inf], np.float32), name)
    assert y[0] == lowest.get(name, 0)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_saved(name) -> None:
    """x is kept only where the derivative needs it."""
    x = np.linspace(-2, 2, 7)
    y, (kept, _) = ops.activation.forward(x, name)
    assert kept is (x if name in ("gelu", "gelu_tanh", "silu", "softplus") else y)


def test_gelu_is_that_of_bias_gelu() -> None:
    x = normal(generator("activation", "gelu"), 5, 37)
    for name, approximate in (("gelu", "none"), ("gelu_tanh", "tanh")):
        ours, ours_saved = ops.activation.forward(x, name)
        theirs, saved = ops.bias_gelu.forward(x, None, approximate)
        assert ours.tobytes() == theirs.tobytes()
        dx = ops.activation.backward(x, ours_saved)
        assert dx.tobytes() == ops.bias_gelu.backward(x, saved).tobytes()


@pytest.mark.parametrize("option", ["negative_slope", "alpha", "beta", "threshold"])
def test_an_option_of_another_function_is_refused(option) -> None:
    owner = {"negative_slope": "leaky_relu", "alpha": "elu"}.get(option, "softplus")
    for name in NAMES:
        if name == owner:
            ops.activation.forward(np.ones(3), name, **{option: 0.5})
            continue
        sentence = re.escape(f"activation.forward: {name} has no option {option}")
        with pytest.raises(ValueError, match=f"^{sentence}$"):
            ops.activation.forward(np.ones(3), name, **{option: 0.5})
