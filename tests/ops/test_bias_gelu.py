"""Bias and GELU: the cases, and the tails of both forms."""

import numpy as np
import pytest
from hypothesis import strategies as st

from byhand import ops
from byhand.ops.bias_gelu import gelu
from tests.cuda.rules import Rule
from tests.kernel_case import Bug, Call, Cuda, Error, Op, Sample, generator, normal
from tests.ops.sizes import SHAPE
from tests.ops.suite import OpSuite


def sample(*shape: int, tanh: bool, b: bool = True, frozen: str = "", size: float = 2.0) -> Sample:
    label = f"{'x'.join(map(str, shape))}-{'tanh' if tanh else 'erf'}"
    label += ("" if b else "-no b") + (f"-frozen {frozen}" if frozen else "")
    label += f"-size {size:g}" if size != 2 else ""
    rng = generator("bias_gelu", label)
    return Sample(
        label,
        {
            "x": np.asarray(size, np.float32) * normal(rng, *shape),
            "b": normal(rng, shape[-1]) if b else None,
        },
        {"tanh": tanh},
        frozen=frozenset(frozen.split()),
        smooth=size < 100,
    )


def torch_forward(t, o):
    import torch.nn.functional as f

    u = t.x if t.b is None else t.x + t.b
    return {"y": f.gelu(u, approximate="tanh" if o["tanh"] else "none")}


def public(c: Call):
    approximate = "tanh" if c.options["tanh"] else "none"
    y, saved = ops.bias_gelu.forward(c.arrays["x"], c.arrays["b"], approximate)
    return {"y": y, "dx": ops.bias_gelu.backward(c.upstream["dy"], saved, c.into["db"])}


CUDA = Cuda(
    instructions=(
        Rule("bias_gelu_forward_rows", loads=2),  # x b
        Rule("bias_gelu_backward_rows", loads=3),  # dy x b
        Rule("column_sums<.*Gradients", loads=3, stores=0),  # dy x b
    ),
    inexact=("bias_gelu_forward", "bias_gelu_backward"),
)

BUGS = (
    Bug("forms swapped", "bias_gelu_forward", "x + b, tanh", "x + b, not tanh"),
    Bug("rounded constant", "bias_gelu_forward", "_CUBIC", "0.0447", "gelu"),
    Bug("output read", "bias_gelu_forward", "y[...] = ", "y[...] += "),
    Bug("x pdf dropped", "bias_gelu_backward",
        " + u * np.exp(-0.5 * u * u) / math.sqrt(2 * math.pi)", "", "gelu_derivative"),
    Bug("inner dropped", "bias_gelu_backward", "(1 - t * t) * inner", "(1 - t * t)",
        "gelu_derivative"),
    Bug("bias ignored", "bias_gelu_backward", "x if b is None else x + b", "x"),
    Bug("db = for +=", "bias_gelu_backward", "db += ", "db[...] = "),
)  # fmt: skip

OP = Op(
    name="bias_gelu",
    forward="bias_gelu_forward",
    backward="bias_gelu_backward",
    samples=tuple(
        case
        for tanh in (True, False)
        for case in (
            sample(2, 3, 17, tanh=tanh),
            sample(0, 3, tanh=tanh),
            sample(3, 0, tanh=tanh),
            sample(1, 2, tanh=tanh),
            sample(2, 1, tanh=tanh, b=False),
            sample(16, 15, tanh=tanh, frozen="db"),
            sample(31, 33, tanh=tanh),
            sample(127, 31, tanh=tanh),
            sample(2, 1023, tanh=tanh),
            sample(3, 1025, tanh=tanh, b=False),
            sample(3, 129, tanh=tanh, size=1e4),
        )
    ),
    big=sample(1023, 129, tanh=True),
    shapes=lambda s: {"y": s.arrays["x"].shape},
    upstream={"y": "dy"},
    gradients={"x": "dx", "b": "db"},
    torch=torch_forward,
    public=public,
    in_place=(("bias_gelu_forward", "y", "x"), ("bias_gelu_backward", "dx", "dy")),
    rows={"bias_gelu_forward": ("x", ("y",)), "bias_gelu_backward": ("dy", ("dx",))},
    planted=BUGS,
    drawn=st.builds(
        lambda shape, tanh, b: sample(*shape, tanh=tanh, b=b), SHAPE, st.booleans(), st.booleans()
    ),
    past_caches=True,
    cuda=CUDA,
    errors=(
        Error(
            ValueError,
            "bias_gelu.forward: approximate must be 'none' or 'tanh', got 'sigmoid'",
            lambda: ops.bias_gelu.forward(np.ones((2, 3)), approximate="sigmoid"),
        ),
    ),
)


class TestBiasGelu(OpSuite):
    op = OP


@pytest.mark.parametrize(
    ("u", "phi"),
    [
        (-30.0, 4.906713927148187e-198),
        (-8.0, 6.220960574271785e-16),
        (-1.0, 0.15865525393145707),
        (0.5, 0.6914624612740131),
        (6.0, 0.9999999990134123),
    ],
)
def test_the_erf_form_keeps_its_digits_in_the_tails(u: float, phi: float) -> None:
    """1 + erf(u) has no correct digit at -8. Rounding u costs u^2 units in the last place."""
    assert gelu(np.array([u]), False)[0] == pytest.approx(u * phi, rel=1e-15 * (1 + u * u), abs=0)


def test_gelu_of_special_numbers() -> None:
    y, _ = ops.bias_gelu.forward(np.array([[0.0, np.inf, np.nan]]), approximate="none")
    assert y[0, 0] == 0
    assert y[0, 1] == np.inf
    assert np.isnan(y[0, 2])
