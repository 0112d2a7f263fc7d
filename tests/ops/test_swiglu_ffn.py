"""The gated feed-forward layer: the cases, and its equality with the ops it fuses."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import strategies as st

from byhand import backend, ops
from byhand.ops.precision import round_bf16
from tests.kernel_case import Bug, Call, Cuda, Error, Op, Sample, generator, normal
from tests.ops.sizes import SMALL
from tests.ops.suite import OpSuite, native_kernels

FUNCTIONS = ("silu", "gelu", "gelu_tanh")
PARAMETERS = ("w1", "b1", "w3", "b3", "w2", "b2")


def sample(
    rows: tuple[int, ...],
    c: int,
    f: int,
    activation: str = "silu",
    biases: str = "",
    add: bool = False,
    frozen: str = "",
) -> Sample:
    """biases: the names of those that there are."""
    label = f"{'x'.join(map(str, rows))}-{c}-{f}-{activation}"
    label += f"-{biases}" * bool(biases) + "-add" * add + f"-frozen {frozen}" * bool(frozen)
    rng = generator("swiglu_ffn", label)
    return Sample(
        label,
        {
            "x": normal(rng, *rows, c),
            "w1": normal(rng, f, c),
            "b1": normal(rng, f) if "b1" in biases else None,
            "w3": normal(rng, f, c),
            "b3": normal(rng, f) if "b3" in biases else None,
            "w2": normal(rng, c, f),
            "b2": normal(rng, c) if "b2" in biases else None,
            "add": normal(rng, *rows, c) if add else None,
        },
        {"function": ops.swiglu_ffn.FUNCTIONS[activation], "bf16": False},
        frozen=frozenset(frozen.split()),
    )


ALL = "b1 b3 b2"


def name_of(function: int) -> str:
    return ops.activation.NUMBERED[function]


def shapes(s: Sample) -> dict[str, tuple[int, ...]]:
    x = s.arrays["x"].shape
    hidden = s.arrays["w1"].shape[0]
    work = (ops.swiglu_ffn.block(math.prod(x[:-1]), hidden), hidden)
    inner = (*x[:-1], hidden)
    return {"y": x, "gate": inner, "up": inner, "h": work, "dgate": work, "dup": work}


def torch_function(f, name: str):
    if name == "silu":
        return f.silu
    return lambda u: f.gelu(u, approximate="tanh" if name == "gelu_tanh" else "none")


def torch_forward(t, o):
    import torch.nn.functional as f

    gate, up = f.linear(t.x, t.w1, t.b1), f.linear(t.x, t.w3, t.b3)
    y = f.linear(torch_function(f, name_of(o["function"]))(gate) * up, t.w2, t.b2)
    return {"y": y if t.add is None else y + t.add, "gate": gate, "up": up}


def public(c: Call):
    parameters = [c.arrays[n] for n in PARAMETERS]
    name = name_of(c.options["function"])
    y, saved = ops.swiglu_ffn.forward(c.arrays["x"], *parameters, c.arrays["add"], name)
    into = [c.into[f"d{n}"] for n in PARAMETERS]
    return {"y": y, "dx": ops.swiglu_ffn.backward(c.upstream["dy"], saved, *into)}


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape)


GOOD = (ones(2, 3), ones(5, 3), ones(5), ones(5, 3), ones(5), ones(3, 5), ones(3))


def wide() -> Iterator[Sample]:
    """Several tiles; so deep that the depth is cut in pieces; few rows."""
    yield sample((130,), 24, 72, add=True)
    yield sample((33,), 40, 128, "gelu", "b3 b2")
    yield sample((20,), 2080, 8, "gelu_tanh", ALL, add=True)
    yield sample((5,), 40, 72, biases="b1", add=True)


CUDA = Cuda(
    wide=wide, rounds=True, slack=2.0**-7, inexact=("swiglu_ffn_forward", "swiglu_ffn_backward")
)

BUGS = (
    Bug("b1 forgotten", "swiglu_ffn_forward", "x @ w1.T + b1", "x @ w1.T"),
    Bug("b3 on the gate", "swiglu_ffn_forward", "x @ w3.T + b3", "x @ w3.T"),
    Bug("the other half is activated", "swiglu_ffn_forward",
        "value(gate, NUMBERED[function], 1, 1) * up", "value(up, NUMBERED[function], 1, 1) * gate"),
    Bug("derivative at up", "swiglu_ffn_backward", "gradient(dh * up, gate,",
        "gradient(dh * up, up,"),
    Bug("dgate without up", "swiglu_ffn_backward", "gradient(dh * up,", "gradient(dh,"),
    Bug("dup from the gate itself", "swiglu_ffn_backward", "dh * activated", "dh * gate"),
    Bug("dw2 from the gate alone", "swiglu_ffn_backward", "dy, activated * up, w2",
        "dy, activated, w2"),
    Bug("dw3 from dgate", "swiglu_ffn_backward", "dw3 += as_rows(d3)", "dw3 += as_rows(d1)"),
    Bug("db3 from dgate", "swiglu_ffn_backward", "db3 += as_rows(d3)", "db3 += as_rows(d1)"),
    Bug("dx of the gate alone", "swiglu_ffn_backward", "d1 @ w1 + d3 @ w3", "d1 @ w1"),
    Bug("dw1 = for +=", "swiglu_ffn_backward", "dw1 += ", "dw1[...] = "),
)  # fmt: skip

OP = Op(
    name="swiglu_ffn",
    forward="swiglu_ffn_forward",
    backward="swiglu_ffn_backward",
    samples=(
        sample((2, 3), 17, 5, biases=ALL, add=True),
        sample((0,), 3, 2),
        sample((3,), 0, 2),
        sample((3,), 2, 0, biases="b2", add=True),
        sample((1,), 2, 3, "gelu"),
        sample((4,), 1, 3, "gelu_tanh", ALL),
        sample((15,), 17, 16, "gelu", "b3"),
        sample((16,), 31, 33, frozen="dw1", biases="b1 b3"),
        sample((17,), 33, 15, "gelu", ALL, frozen="db1 dw2", add=True),
        sample((33,), 15, 127, biases=ALL, frozen="dw1 db1 dw3 db3 dw2 db2"),
        sample((127,), 3, 31, "gelu_tanh"),
        sample((3,), 127, 65, biases=ALL, frozen="db3 db2 dw3"),
        sample((2,), 5, 1025),
    ),
    big=sample((600,), 3, 4099, biases="b1 b2", add=True),  # three blocks of rows
    shapes=shapes,
    upstream={"y": "dy"},
    gradients={
        "x": "dx",
        "w1": "dw1",
        "b1": "db1",
        "w3": "dw3",
        "b3": "db3",
        "w2": "dw2",
        "b2": "db2",
        "add": "dy",
    },
    scratch=frozenset({"h", "dgate", "dup"}),
    torch=torch_forward,
    public=public,
    rows={
        "swiglu_ffn_forward": ("x", ("y", "gate", "up")),
        "swiglu_ffn_backward": ("dy", ("dx",)),
    },
    planted=BUGS,
    drawn=st.builds(
        lambda rows, c, f, name, biases: sample((rows,), c, f, name, biases),
        SMALL,
        SMALL,
        SMALL,
        st.sampled_from(FUNCTIONS),
        st.sampled_from(("", ALL)),
    ),
    cuda=CUDA,
    errors=(
        Error(
            ValueError,
            "swiglu_ffn.forward: activation must be 'silu', 'gelu' or 'gelu_tanh', got 'relu'",
            lambda: ops.swiglu_ffn.forward(*GOOD, None, "relu"),
        ),
        Error(
            ValueError,
            "swiglu_ffn.forward: activation must be 'silu', 'gelu' or 'gelu_tanh', got ['silu']",
            lambda: ops.swiglu_ffn.forward(*GOOD, None, ["silu"]),
        ),
    ),
)


class TestSwigluFfn(OpSuite):
    op = OP


def parts(x, w1, b1, w3, b3, w2, b2, add, dy, name, bf16):
    """y and all gradients by linear, activation and the product."""
    gate, of_gate = ops.linear.forward(x, w1, b1, bf16=bf16)
    up, of_up = ops.linear.forward(x, w3, b3, bf16=bf16)
    value, of_value = ops.activation.forward(gate, name)
    y, of_y = ops.linear.forward(value * up, w2, b2, add, bf16=bf16)
    into = [np.ones_like(a) for a in (w1, b1, w3, b3, w2, b2)]
    dh = ops.linear.backward(dy, of_y, into[4], into[5])
    dx = ops.linear.backward(ops.activation.backward(dh * up, of_value), of_gate, into[0], into[1])
    dx_up = ops.linear.backward(dh * value, of_up, into[2], into[3])
    return y, dx + dx_up, *into


def fused(x, w1, b1, w3, b3, w2, b2, add, dy, name, bf16):
    y, saved = ops.swiglu_ffn.forward(x, w1, b1, w3, b3, w2, b2, add, name, bf16)
    into = [np.ones_like(a) for a in (w1, b1, w3, b3, w2, b2)]
    return y, ops.swiglu_ffn.backward(dy, saved, *into), *into


def inputs(name: str, rows: int, c: int, f: int, dtype: type):
    rng = generator("swiglu_ffn", name, str(rows), str(c), str(f))
    sizes = ((rows, c), (f, c), (f,), (f, c), (f,), (c, f), (c,), (rows, c), (rows, c))
    return [rng.standard_normal(size).astype(dtype) for size in sizes]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_fused_is_unfused(name: str) -> None:
    """linear, activation, product, linear: the same numbers, the same gradients."""
    arrays = inputs(name, 7, 3, 5, np.float64)
    for a, b in zip(fused(*arrays, name, False), parts(*arrays, name, False), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(("rows", "c", "f"), [(1, 3, 2), (17, 33, 15), (33, 15, 127), (3, 127, 65)])
def test_in_bf16_each_factor_is_rounded_once(native: str, name: str, rows, c, f) -> None:
    """The fused layer gives the bits of its parts where those add in the same order, and otherwise
    the same numbers within the last bits of float32.
    """
    arrays = inputs(name, rows, c, f, np.float32)
    with backend.use_cpu(native):
        got, wanted = fused(*arrays, name, True), parts(*arrays, name, True)
    np.testing.assert_array_equal(got[0], wanted[0])
    for a, b in zip(got[1:], wanted[1:], strict=True):
        # (dh up) f' and dh (up f') may round to neighbours in bfloat16
        np.testing.assert_allclose(a, b, rtol=0, atol=2.0**-7 * np.abs(b).max())


@pytest.mark.parametrize("block", [1, 7, 30, 1000])
def test_cuda_in_blocks_of_any_size(block, device_kernels):
    """h, dgate and dup hold some rows of the hidden layer at a time."""
    rows, c, f = 30, 24, 40
    x, w1, b1, w3, b3, w2, b2, add, dy = inputs("blocks", rows, c, f, np.float32)

    def both(kernels, dtype):
        a = [array.astype(dtype) for array in (x, w1, b1, w3, b3, w2, b2, add)]
        y = np.full((rows, c), np.nan, dtype)
        gate, up = (np.full((rows, f), np.nan, dtype) for _ in range(2))
        h, dgate, dup = (np.full((block, f), np.nan, dtype) for _ in range(3))
        number = ops.swiglu_ffn.FUNCTIONS["silu"]
        kernels.swiglu_ffn_forward(y, gate, up, h, *a, number, False)
        dx = np.full_like(y, np.nan)
        into = [np.ones_like(array) for array in a[1:7]]
        rest = (dy.astype(dtype), a[0], gate, up, a[1], a[3], a[5], number, False)
        kernels.swiglu_ffn_backward(dx, h, dgate, dup, *into, *rest)
        return [y, gate, up, dx, *into]

    exact = both(backend.reference, np.float64)
    for got, wanted in zip(both(device_kernels, np.float32), exact, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max(), rtol=0)


def test_another_function_is_refused(native: str) -> None:
    kernels = native_kernels(native)
    x, w, hidden = ones(2, 3), ones(3, 3), ones(2, 3)
    a = [array.astype(np.float32) for array in (x, hidden, hidden, hidden, x, w, w, w)]
    y, gate, up, h, x, w1, w3, w2 = a
    relu = ops.activation.NUMBERED.index("relu")
    with pytest.raises(ValueError, match="swiglu_ffn_forward: there is no such function"):
        kernels.swiglu_ffn_forward(y, gate, up, h, x, w1, None, w3, None, w2, None, None, relu, 0)


@pytest.mark.parametrize("frozen", [False, True])
def test_biases_are_summed_before_the_gradients_are_rounded(frozen):
    """In bf16 only factors of products are rounded; db1, db3 and db2 are sums, not products."""
    x, w1, b1, w3, b3, w2, b2, _, dy = inputs("biases", 6, 4, 5, np.float64)
    _, saved = ops.swiglu_ffn.forward(x, w1, b1, w3, b3, w2, b2, bf16=True)
    db1, db3, db2 = np.zeros(5), np.zeros(5), np.zeros(4)
    dw = (None,) * 3 if frozen else tuple(np.zeros_like(w) for w in (w1, w3, w2))
    ops.swiglu_ffn.backward(dy, saved, dw[0], db1, dw[1], db3, dw[2], db2)
    gate = round_bf16(x) @ round_bf16(w1).T + b1
    up = round_bf16(x) @ round_bf16(w3).T + b3
    dh = round_bf16(dy) @ round_bf16(w2)
    s = 1 / (1 + np.exp(-gate))
    dgate, dup = dh * up * s * (1 + gate * (1 - s)), dh * gate * s
    for got, exact in ((db1, dgate), (db3, dup), (db2, dy)):
        np.testing.assert_allclose(got, exact.sum(0), rtol=1e-12)
        assert np.abs(got - round_bf16(exact).sum(0)).max() > 1e-6
