"""The feed-forward layer: the cases, and its equality with the ops it fuses."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import strategies as st

from byhand import backend, ops
from byhand.ops.bias_gelu import gelu_derivative
from byhand.ops.precision import round_bf16
from tests.kernel_case import Bug, Call, Cuda, Error, Op, Sample, generator, normal
from tests.ops.sizes import SMALL
from tests.ops.suite import OpSuite


def sample(
    rows: tuple[int, ...],
    c: int,
    f: int,
    tanh: bool = True,
    b1: bool = True,
    b2: bool = True,
    add: bool = False,
    frozen: str = "",
) -> Sample:
    label = f"{'x'.join(map(str, rows))}-{c}-{f}-{'tanh' if tanh else 'erf'}"
    label += ("" if b1 else "-no b1") + ("" if b2 else "-no b2") + ("-add" if add else "")
    label += f"-frozen {frozen}" if frozen else ""
    rng = generator("gelu_ffn", label)
    return Sample(
        label,
        {
            "x": normal(rng, *rows, c),
            "w1": normal(rng, f, c),
            "b1": normal(rng, f) if b1 else None,
            "w2": normal(rng, c, f),
            "b2": normal(rng, c) if b2 else None,
            "add": normal(rng, *rows, c) if add else None,
        },
        {"tanh": tanh, "bf16": False},
        frozen=frozenset(frozen.split()),
    )


def shapes(s: Sample) -> dict[str, tuple[int, ...]]:
    x = s.arrays["x"].shape
    hidden = s.arrays["w1"].shape[0]
    work = (ops.gelu_ffn.block(math.prod(x[:-1]), hidden), hidden)
    return {"y": x, "pre": (*x[:-1], hidden), "h": work, "dpre": work}


def torch_forward(t, o):
    import torch.nn.functional as f

    pre = f.linear(t.x, t.w1, t.b1)
    h = f.gelu(pre, approximate="tanh" if o["tanh"] else "none")
    y = f.linear(h, t.w2, t.b2)
    return {"y": y if t.add is None else y + t.add, "pre": pre}


PARAMETERS = ("w1", "b1", "w2", "b2")


def public(c: Call):
    approximate = "tanh" if c.options["tanh"] else "none"
    parameters = [c.arrays[n] for n in PARAMETERS]
    y, saved = ops.gelu_ffn.forward(c.arrays["x"], *parameters, c.arrays["add"], approximate)
    into = [c.into[f"d{n}"] for n in PARAMETERS]
    return {"y": y, "dx": ops.gelu_ffn.backward(c.upstream["dy"], saved, *into)}


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape)


GOOD = (ones(2, 3), ones(5, 3), ones(5), ones(3, 5), ones(3))


def wide() -> Iterator[Sample]:
    """Several tiles; so deep that the depth is cut in pieces; few rows."""
    yield sample((130,), 24, 72, add=True)
    yield sample((33,), 40, 128, tanh=False, b1=False)
    yield sample((20,), 2080, 8, add=True)
    yield sample((5,), 40, 72, add=True)


CUDA = Cuda(
    wide=wide, rounds=True, slack=2.0**-8, inexact=("gelu_ffn_forward", "gelu_ffn_backward")
)

BUGS = (
    Bug("b1 forgotten", "gelu_ffn_forward", "x @ w1.T + b1", "x @ w1.T"),
    Bug("derivative at h", "gelu_ffn_backward", "gelu_derivative(pre,", "gelu_derivative(hidden,"),
    Bug("dw2 from pre", "gelu_ffn_backward", "as_rows(dy).T @ as_rows(hidden)",
        "as_rows(dy).T @ as_rows(pre)"),
    Bug("db1 before the gate", "gelu_ffn_backward", "as_rows(d).sum(axis=0)",
        "as_rows(dy @ w2).sum(axis=0)"),
    Bug("dw1 = for +=", "gelu_ffn_backward", "dw1 += ", "dw1[...] = "),
)  # fmt: skip

OP = Op(
    name="gelu_ffn",
    forward="gelu_ffn_forward",
    backward="gelu_ffn_backward",
    samples=(
        sample((2, 3), 17, 5, add=True),
        sample((0,), 3, 2),
        sample((3,), 0, 2),
        sample((3,), 2, 0, add=True),
        sample((1,), 2, 3, tanh=False),
        sample((2,), 1, 3),
        sample((15,), 17, 16, tanh=False, b1=False),
        sample((16,), 31, 33, b2=False, frozen="dw1"),
        sample((17,), 33, 15, tanh=False, frozen="db1 dw2", add=True),
        sample((33,), 15, 127, frozen="dw1 db1 dw2 db2"),
        sample((127,), 3, 31, b1=False, b2=False),
        sample((3,), 127, 65, frozen="db2"),
        sample((2,), 5, 1025),
    ),
    big=sample((600,), 3, 4099, add=True),  # three blocks of rows
    shapes=shapes,
    upstream={"y": "dy"},
    gradients={"x": "dx", "w1": "dw1", "b1": "db1", "w2": "dw2", "b2": "db2", "add": "dy"},
    scratch=frozenset({"h", "dpre"}),
    torch=torch_forward,
    public=public,
    rows={"gelu_ffn_forward": ("x", ("y", "pre")), "gelu_ffn_backward": ("dy", ("dx",))},
    planted=BUGS,
    drawn=st.builds(
        lambda rows, c, f, tanh: sample((rows,), c, f, tanh), SMALL, SMALL, SMALL, st.booleans()
    ),
    cuda=CUDA,
    errors=(
        Error(
            ValueError,
            "gelu_ffn.forward: approximate must be 'none' or 'tanh', got True",
            lambda: ops.gelu_ffn.forward(*GOOD, None, True),
        ),
    ),
)


class TestGeluFfn(OpSuite):
    op = OP


@pytest.mark.parametrize("approximate", ["tanh", "none"])
def test_fused_is_unfused(approximate: str) -> None:
    """linear, bias_gelu, linear: the same numbers, the same gradients."""
    rng = generator("gelu_ffn", "unfused", approximate)
    x, w1, b1, w2, b2, dy = (
        rng.standard_normal(s) for s in ((7, 3), (5, 3), (5,), (3, 5), (3,), (7, 3))
    )
    y, saved = ops.gelu_ffn.forward(x, w1, b1, w2, b2, approximate=approximate)
    u, saved_1 = ops.linear.forward(x, w1)
    h, saved_g = ops.bias_gelu.forward(u, b1, approximate)
    z, saved_2 = ops.linear.forward(h, w2, b2)
    np.testing.assert_allclose(y, z, rtol=1e-13)
    fused = [np.zeros_like(a) for a in (w1, b1, w2, b2)]
    apart = [np.zeros_like(a) for a in (w1, b1, w2, b2)]
    dx = ops.gelu_ffn.backward(dy, saved, *fused)
    dh = ops.linear.backward(dy, saved_2, apart[2], apart[3])
    du = ops.bias_gelu.backward(dh, saved_g, apart[1])
    expected = ops.linear.backward(du, saved_1, apart[0])
    for a, b in zip([dx, *fused], [expected, *apart], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


def test_how_many_rows_are_a_block() -> None:
    block = ops.gelu_ffn.block
    assert [block(rows, 3072) for rows in (0, 1, 700, 10**5)] == [1, 1, 350, 681]
    assert [block(5, 0), block(1000, 10**7)] == [5, 250]
    assert [block(rows, 3072, gpu=True) for rows in (1, 2**14, 2**14 + 1)] == [1, 2**14, 2**13 + 1]


@pytest.mark.parametrize("block", [1, 7, 30, 1000])
def test_cuda_in_blocks_of_any_size(block, device_kernels):
    """h and dpre hold some rows of the hidden layer at a time."""
    rng = np.random.default_rng(block)
    rows, c, f = 30, 24, 40
    x, dy = (rng.standard_normal((rows, c)).astype(np.float32) for _ in range(2))
    w1, w2 = (rng.standard_normal(shape).astype(np.float32) for shape in ((f, c), (c, f)))
    b1, b2 = rng.standard_normal(f).astype(np.float32), rng.standard_normal(c).astype(np.float32)

    def both(kernels, dtype):
        a = [array.astype(dtype) for array in (x, w1, b1, w2, b2)]
        y, pre = np.full((rows, c), np.nan, dtype), np.full((rows, f), np.nan, dtype)
        h, dpre = (np.full((block, f), np.nan, dtype) for _ in range(2))
        kernels.gelu_ffn_forward(y, pre, h, *a, None, True, False)
        dx = np.full_like(y, np.nan)
        into = [np.ones_like(array) for array in a[1:]]
        rest = (dy.astype(dtype), a[0], pre, a[1], a[3], True, False)
        kernels.gelu_ffn_backward(dx, h, dpre, *into, *rest)
        return [y, pre, dx, *into]

    exact = both(backend.reference, np.float64)
    for got, wanted in zip(both(device_kernels, np.float32), exact, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max(), rtol=0)


@pytest.mark.parametrize("frozen", [False, True])
def test_biases_are_summed_before_the_gradients_are_rounded(frozen):
    """In bf16 only factors of products are rounded; db1 and db2 are sums, not products."""
    rng = np.random.default_rng(0)
    x, w1, b1, w2, b2, dy = (
        rng.standard_normal(shape) for shape in ((6, 4), (5, 4), (5,), (4, 5), (4,), (6, 4))
    )
    _, saved = ops.gelu_ffn.forward(x, w1, b1, w2, b2, bf16=True)
    db1, db2 = np.zeros(5), np.zeros(4)
    weights = (None, None) if frozen else (np.zeros((5, 4)), np.zeros((4, 5)))
    ops.gelu_ffn.backward(dy, saved, weights[0], db1, weights[1], db2)
    pre = round_bf16(x) @ round_bf16(w1).T + b1
    dpre = (round_bf16(dy) @ round_bf16(w2)) * gelu_derivative(pre, tanh=True)
    np.testing.assert_allclose(db1, dpre.sum(0), rtol=1e-12)
    np.testing.assert_allclose(db2, dy.sum(0), rtol=1e-12)
    assert np.abs(db1 - round_bf16(dpre).sum(0)).max() > 1e-6
    assert np.abs(db2 - round_bf16(dy).sum(0)).max() > 1e-6
