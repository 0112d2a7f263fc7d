"""The linear layer with packed weights: the cases, the formats, and the same bits for each row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from byhand import backend, ops
from byhand.ops.packed_linear import FORMATS, PackedWeights, pack_weights, unpack, words_shape
from tests.cuda.rules import Rule
from tests.kernel_case import (
    FORWARD,
    Bug,
    Call,
    Cuda,
    Error,
    Op,
    Sample,
    bare_reference,
    generator,
    normal,
)
from tests.ops.sizes import SMALL
from tests.ops.suite import OpSuite

INTS = ("int8", "int4", "int4_1")


def packed(w: np.ndarray, format: str) -> np.ndarray:
    """The words of w, by the reference."""
    words = np.zeros(words_shape(w.shape, format), np.int64)
    bare_reference().packed_linear_pack(words, w, FORMATS.index(format))
    return words


def sample(
    rows: tuple[int, ...],
    k: int,
    n: int,
    format: str = "float32",
    b: bool = True,
    add: bool = False,
) -> Sample:
    label = f"{'x'.join(map(str, rows))}-{k}-{n}-{format}{'' if b else '-no b'}"
    label += "-add" if add else ""
    rng = generator("packed_linear", label)
    return Sample(
        label,
        {
            "x": normal(rng, *rows, k),
            "w": packed(normal(rng, n, k), format),
            "b": normal(rng, n) if b else None,
            "add": normal(rng, *rows, n) if add else None,
        },
        {"format": FORMATS.index(format), "columns": n},
    )


def pack_sample(n: int, k: int, format: str) -> Sample:
    label = f"{n}-{k}-{format}"
    rng = generator("packed_linear_pack", label)
    words = rng.integers(-(2**62), 2**62, words_shape((n, k), format))
    return Sample(
        label, {"words": words, "w": normal(rng, n, k)}, {"format": FORMATS.index(format)}
    )


def shapes(s: Sample) -> dict[str, tuple[int, ...]]:
    return {"y": (*s.arrays["x"].shape[:-1], s.options["columns"])}


def exact_rows(x: np.ndarray) -> np.ndarray:
    """x with each group of 32 along its last axis rounded to 127 steps of its largest number. The
    divisions are those of float32; whole numbers times scales are exact in float64.
    """
    x = np.asarray(x, np.float32)
    rounded = np.zeros(x.shape, np.float64)
    for begin in range(0, x.shape[-1], 32):
        group = x[..., begin : begin + 32]
        scale = np.abs(group).max(axis=-1, keepdims=True, initial=0) / np.float32(127)
        inverse = np.float32(1) / np.where(scale > 0, scale, np.float32(1))
        whole = np.rint(group * inverse).astype(np.float64)
        rounded[..., begin : begin + 32] = whole * scale.astype(np.float64)
    return rounded


def torch_forward(t: Any, o: dict[str, Any]) -> dict[str, Any]:
    import torch

    format, n = FORMATS[o["format"]], o["columns"]
    k = t.x.shape[-1]
    w = torch.from_numpy(unpack(PackedWeights(t.w.numpy(), (n, k), format)).astype(np.float64))
    x = t.x
    if format in INTS:
        x = torch.from_numpy(exact_rows(x.numpy()))
    y = torch.nn.functional.linear(x, w, t.b)
    return {"y": y if t.add is None else y + t.add}


def public(c: Call) -> dict[str, Any]:
    a, n = c.arrays, c.options["columns"]
    w = PackedWeights(a["w"], (n, a["x"].shape[-1]), FORMATS[c.options["format"]])
    return {"y": ops.packed_linear.forward(a["x"], w, a["b"], a["add"])}


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


PACKED = pack_weights(np.ones((5, 3)))


def wide() -> Iterator[Sample]:
    """More columns than a wave of blocks; so deep that each warp has several groups."""
    for format in FORMATS:
        yield sample((9,), 1000, 100, format, add=True)
        yield sample((2, 3), 515, 33, format, b=False)


BUGS = (
    Bug("b forgotten", "packed_linear_forward", "sums + b", "sums + 0 * b", None, FORWARD),
    Bug("scale of x forgotten", "packed_linear_forward", "scale[:, g, None] * unpacked",
        "unpacked", None, FORWARD),
    Bug("minimum forgotten", "packed_linear_forward", "[:, g].sum(axis=-1, keepdims=True)",
        "[:, g, :1]", None, FORWARD),
    Bug("add forgotten", "packed_linear_forward", "sums + add", "sums + 0 * add", None, FORWARD),
)  # fmt: skip

OP = Op(
    name="packed_linear",
    forward="packed_linear_forward",
    samples=(
        sample((2, 3), 17, 5, add=True),
        sample((0,), 3, 2),
        sample((3,), 0, 2),
        sample((3,), 2, 0, "int8"),
        sample((2,), 0, 3, "int4", add=True),
        sample((1,), 2, 3),
        sample((1,), 1, 1, "bf16"),
        sample((15,), 17, 16, "bf16", b=False),
        sample((5,), 33, 1023, "bf16", add=True),
        sample((3,), 1025, 33, "float32"),
        sample((31,), 65, 34, "float32", b=False, add=True),
        *(sample((2, 3), 45, 7, f, add=True) for f in INTS),
        *(sample((16,), 31, 33, f) for f in INTS),
        *(sample((5,), 1056, 65, f, b=False) for f in INTS),
        *(sample((1,), 130, 257, f, add=True) for f in INTS),
        sample((130,), 257, 70, "int4_1", add=True),
    ),
    big=sample((300,), 1600, 193, add=True),
    shapes=shapes,
    torch=torch_forward,
    public=public,
    in_place=(("packed_linear_forward", "y", "add"),),
    rows={"packed_linear_forward": ("x", ("y",))},
    planted=BUGS,
    drawn=st.builds(
        lambda rows, k, n, format, add: sample((rows,), k, n, format, add=add),
        SMALL,
        SMALL,
        SMALL,
        st.sampled_from(FORMATS),
        st.booleans(),
    ),
    # Neighbouring threads read neighbouring words of the weights, each of its own column.
    cuda=Cuda(wide=wide, instructions=(Rule("packed_linear", loads=0, stores=0),)),
    errors=(
        Error(
            TypeError,
            "packed_linear.forward: w must be what packed_linear.pack_weights returned, got "
            "ndarray",
            lambda: ops.packed_linear.forward(ones(2, 3), ones(5, 3)),
        ),
        Error(
            ValueError,
            "packed_linear.forward: x must have shape (..., 3), as w was packed from (5, 3), got "
            "(2, 4)",
            lambda: ops.packed_linear.forward(ones(2, 4), PACKED),
        ),
        Error(
            ValueError,
            "packed_linear.forward: b must have shape (5,), got (3,)",
            lambda: ops.packed_linear.forward(ones(2, 3), PACKED, ones(3)),
        ),
        Error(
            ValueError,
            "packed_linear.forward: add must have shape (2, 5), got (5,)",
            lambda: ops.packed_linear.forward(ones(2, 3), PACKED, None, ones(5)),
        ),
        Error(
            ValueError,
            "w has 48 words, the weights need 64",
            lambda: ops.packed_linear.forward(
                ones(2, 4), PackedWeights(PACKED.words, (5, 4), "float32")
            ),
        ),
        Error(
            ValueError,
            "packed_linear.pack_weights: format must be 'float32', 'bf16', 'int8', 'int4' or "
            "'int4_1', got 'int5' (did you mean int",
            lambda: pack_weights(ones(5, 3), "int5"),
        ),
        *(
            Error(
                ValueError,
                f"packed_linear.pack_weights: w[1, 2] = {value} is not a number of at most",
                lambda value=value, format=format: pack_weights(
                    np.where(np.arange(15).reshape(5, 3) == 5, np.float32(value), ones(5, 3)),
                    format,
                ),
            )
            for format in FORMATS
            for value in ("nan", "inf", "-inf")
        ),
        Error(
            ValueError,
            "w[0, 0] = 100000.0 is not a number of at most 65504 in int4_1",
            lambda: pack_weights(1e5 * ones(1, 1), "int4_1"),
        ),
    ),
)


PACK_BUGS = (
    Bug("columns not filled up", "packed_linear_pack", "padded[:n, :k] = w",
        "padded[:, :k] = w[:1]", "_bytes_of", FORWARD),
)  # fmt: skip

PACK = Op(
    name="packed_linear_pack",
    forward="packed_linear_pack",
    samples=(
        pack_sample(5, 17, "float32"),
        pack_sample(0, 3, "float32"),
        pack_sample(3, 0, "int8"),
        pack_sample(1, 1, "bf16"),
        pack_sample(1023, 2, "float32"),
        pack_sample(65, 33, "bf16"),
        *(pack_sample(33, 31, f) for f in INTS),
        *(pack_sample(31, 100, f) for f in INTS),
    ),
    shapes=lambda s: {},
    torch=lambda t, o: {},
    public=lambda c: {},  # test_packing_of_weights compares them, bit for bit
    cuda=Cuda(),
)


class TestPackedLinear(OpSuite):
    op = OP


class TestPack(OpSuite):
    op = PACK


# --- The same bits for each row -----------------------------------------------------------------


@pytest.fixture
def threads() -> Iterator[None]:
    before = backend.get_num_threads()
    yield
    backend.set_num_threads(before)


@pytest.mark.parametrize("format", FORMATS)
def test_a_row_has_the_same_bits_among_any_others(native: str, format: str, threads: None) -> None:
    """Alone, among any number of others, for any number of threads."""
    rng = generator("packed_linear", "rows", format)
    rows, k, n = 512, 1200, 165
    with backend.use_cpu(native):
        w = pack_weights(normal(rng, n, k), format)
        x, b, add = normal(rng, rows, k), normal(rng, n), normal(rng, rows, n)
        whole = ops.packed_linear.forward(x, w, b, add)
        for count in (1, 2, 7):
            backend.set_num_threads(count)
            for some in (1, 3, 4, 5, 8, 13, 15, 29, 300, rows):
                at = rng.permutation(rows)[:some]
                y = ops.packed_linear.forward(x[at], w, b, add[at])
                assert y.tobytes() == whole[at].tobytes(), (count, some)


# --- Formats ------------------------------------------------------------------------------------


def half(x: float) -> float:
    return float(np.float16(x))


def by_description(group: np.ndarray, format: str) -> list[float]:
    """32 float32 numbers as Q8_0, Q4_0 and Q4_1 keep them, from the description of these formats:
    a number at a time, in Python's floats, each result rounded to float32.
    """
    f = np.float32
    numbers = [f(v) for v in group]
    if format == "int8":
        scale = f(max(abs(v) for v in numbers) / f(127))
        inverse = f(f(1) / scale) if scale else f(0)
        whole = [int(np.floor(abs(f(v * inverse)) + 0.5)) for v in numbers]
        return [half(scale) * (-q if v < 0 else q) for q, v in zip(whole, numbers, strict=True)]
    if format == "int4":
        largest = max(numbers, key=abs)
        scale = f(largest / f(-8))
        inverse = f(f(1) / scale) if scale else f(0)
        whole = [min(15, int(f(f(v * inverse) + f(8.5)))) for v in numbers]
        return [half(scale) * (q - 8) for q in whole]
    least = min(numbers)
    scale = f((max(numbers) - least) / f(15))
    inverse = f(f(1) / scale) if scale else f(0)
    whole = [min(15, int(f(f((v - least) * inverse) + f(0.5)))) for v in numbers]
    return [half(scale) * q + half(least) for q in whole]


def awkward_weights() -> np.ndarray:
    """Zeros, one number, ties, signs that alternate, and scales from subnormal halves up."""
    rng = generator("packed_linear", "awkward")
    w = normal(rng, 40, 96)
    w[1] = 0
    w[2] = 0.75
    w[3, ::2] = -w[3, ::2]
    w[4] = np.arange(96) / 4 - 12
    w[5] = 1e-6 * w[5]
    w[6] = 1e-9 * w[6]
    w[7] = 1e4 * w[7]
    w[8, :32] = np.tile([-1.0, 1.0], 16)
    w[9] = np.where(np.arange(96) % 32 == 7, 5, 0)
    w[11] = -np.abs(w[11])
    w[12] = np.abs(w[12])
    w[13] = np.round(127 * rng.random(96)) - 63.5
    w[13, ::32] = 127
    return w


@pytest.mark.parametrize("format", INTS)
def test_groups_are_those_of_the_description(format: str) -> None:
    w = awkward_weights()
    with np.errstate(under="ignore"):
        expected = [
            [v for g in range(0, 96, 32) for v in by_description(row[g : g + 32], format)]
            for row in w
        ]
    got = unpack(pack_weights(w, format)).astype(np.float64)
    np.testing.assert_allclose(got, expected, rtol=2e-7, atol=1e-12)


@pytest.mark.parametrize(
    ("format", "theirs"), [("int8", "Q8_0"), ("int4", "Q4_0"), ("int4_1", "Q4_1")]
)
def test_groups_are_those_of_gguf(format: str, theirs: str) -> None:
    """The package of llama.cpp that writes such files, where it is installed."""
    gguf = pytest.importorskip("gguf")
    w = awkward_weights()
    kind = getattr(gguf.GGMLQuantizationType, theirs)
    expected = gguf.quants.dequantize(gguf.quants.quantize(w, kind), kind)
    np.testing.assert_array_equal(unpack(pack_weights(w, format)), expected)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("shape", [(40, 96), (33, 31), (1, 1), (64, 33), (3, 0), (0, 3)])
def test_packing_of_weights(native: str, format: str, shape: tuple[int, int]) -> None:
    """Every native back end packs the bits that the reference packs."""
    w = np.resize(awkward_weights(), shape)
    with backend.use_cpu(native):
        got = pack_weights(w, format)
    assert got.shape == shape
    assert got.format == format
    assert got.nbytes == got.words.nbytes
    np.testing.assert_array_equal(got.words, packed(w, format))


@pytest.mark.parametrize("format", ["float32", "bf16"])
def test_floats_are_unpacked_as_they_were_packed(format: str) -> None:
    w = np.concatenate([awkward_weights(), [[np.float32(3e38)] * 96]])
    kept = ops.precision.round_bf16(w) if format == "bf16" else w
    np.testing.assert_array_equal(unpack(pack_weights(w, format)), kept)


@pytest.mark.parametrize(("format", "bits"), [*zip(FORMATS, (32, 16, 8.5, 4.5, 5), strict=True)])
def test_bits_of_a_weight(format: str, bits: float) -> None:
    assert 8 * pack_weights(np.ones((64, 320), np.float32), format).nbytes == 64 * 320 * bits


# --- Exact sums ---------------------------------------------------------------------------------


@pytest.mark.parametrize("format", INTS)
@pytest.mark.parametrize("sign", [-1, 1, 0])
def test_sums_of_groups_are_exact(native: str, format: str, sign: int) -> None:
    """Whole numbers of x, and weights that are whole multiples of a power of two, in the extremes:
    no product and no sum saturates, and the result is the exact product.
    """
    rng = generator("packed_linear", "exact", format, str(sign))
    rows, k, n = 9, 160, 40
    most, least = (127, -127) if format == "int8" else (7, -8) if format == "int4" else (15, 0)
    x = rng.integers(-127, 128, (rows, k)).astype(np.float32)
    w = rng.integers(least, most + 1, (n, k)).astype(np.float32)
    if sign:
        x[...] = 127 * sign
        w[:20], w[20:] = least, most
    x[:, ::32] = 127 * (sign or 1)  # the scale of x is 1
    w[:, ::32], w[:, 1::32] = least, most  # and that of w
    w[:, 1::32] = most if format != "int4" else 7
    with backend.use_cpu(native):
        packed_w = pack_weights(w, format)
        np.testing.assert_array_equal(unpack(packed_w), w)
        y = ops.packed_linear.forward(x, packed_w)
    np.testing.assert_array_equal(y, x.astype(np.float64) @ w.T.astype(np.float64))


@pytest.mark.parametrize("format", INTS)
def test_rows_that_have_no_scale(native: str, format: str) -> None:
    """Zeros, numbers too small for one, numbers that are not finite: each in a row of its own."""
    rng = generator("packed_linear", "no scale", format)
    x, w = normal(rng, 6, 64), normal(rng, 5, 64)
    x[1], x[2] = 0, 1e-40
    x[3, 40], x[4, 1], x[5, 63] = np.nan, np.inf, -np.inf
    with backend.use_cpu(native), np.errstate(invalid="raise"):
        y = ops.packed_linear.forward(x, pack_weights(w, format))
    assert np.isfinite(y[0]).all()
    assert (y[1:3] == 0).all()
    assert np.isnan(y[3:]).all()
