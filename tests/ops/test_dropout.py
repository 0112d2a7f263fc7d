"""Dropout: the cases, its rate, and the published test vectors of the generator."""

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from byhand import backend, ops
from byhand.ops import philox
from tests.cuda.rules import Rule
from tests.kernel_case import Bug, Call, Cuda, Error, Op, Sample, generator, normal
from tests.ops.sizes import SHAPE
from tests.ops.suite import OpSuite, native_kernels


def sample(
    *shape: int, p: float = 0.3, add: bool = False, seed: int = 7, offset: int = 9
) -> Sample:
    label = f"{'x'.join(map(str, shape))}-p {p:g}{'-add' if add else ''}"
    rng = generator("dropout", label)
    return Sample(
        label,
        {"x": normal(rng, *shape), "add": normal(rng, *shape) if add else None},
        {"p": p, "seed": seed, "offset": offset},
    )


def torch_forward(t, o):
    import torch

    kept = philox.keep(1, t.x.numel(), o["p"], o["seed"], o["offset"]).reshape(t.x.shape)
    y = t.x * torch.from_numpy(kept) * philox.rule(o["p"])[1]
    return {"y": y if t.add is None else y + t.add}


def public(c: Call):
    y, saved = ops.dropout.forward(c.arrays["x"], **c.options, add=c.arrays["add"])
    return {"y": y, "dx": ops.dropout.backward(c.upstream["dy"], saved)}


BUGS = (
    Bug("no 1/(1-p)", "dropout_forward", "x * x.dtype.type(philox.rule(p)[1])", "x",
        "_dropped"),
    Bug("residual dropped", "dropout_forward", "_dropped(x, p, seed, offset)",
        "_dropped(x if add is None else x + add, p, seed, offset) - (0 if add is None else add)"),
    Bug("another mask", "dropout_backward", "seed, offset)", "seed ^ 1, offset)"),
)  # fmt: skip

OP = Op(
    name="dropout",
    forward="dropout_forward",
    backward="dropout_backward",
    samples=(
        sample(2, 3, 17, add=True),
        sample(),
        sample(0, 3),
        sample(1),
        sample(2, p=0.0),
        sample(3, add=True, p=0.999),
        sample(15, 16, seed=(1 << 64) - 1),
        sample(31, 33, offset=(1 << 64) - 1, add=True),
        sample(127, p=1e-3),
        sample(1023, add=True),
        sample(1025, p=0.5),
    ),
    big=sample(1023, 257, add=True),
    shapes=lambda s: {"y": s.arrays["x"].shape},
    upstream={"y": "dy"},
    gradients={"x": "dx", "add": "dy"},
    torch=torch_forward,
    public=public,
    in_place=(
        ("dropout_forward", "y", "x"),
        ("dropout_forward", "y", "add"),
        ("dropout_backward", "dx", "dy"),
    ),
    rows={"dropout_forward": ("add", ("y",))},
    planted=BUGS,
    drawn=st.builds(lambda shape, add: sample(*shape, add=add), SHAPE, st.booleans()),
    past_caches=True,
    cuda=Cuda(instructions=(Rule("dropout_groups", loads=2),)),  # x add
    errors=(
        Error(
            ValueError,
            "dropout.forward: p must be at least 0 and less than 1, got 1.0",
            lambda: ops.dropout.forward(np.ones(3), 1.0, 0, 0),
        ),
        Error(
            ValueError,
            "dropout.forward: p must be at least 0 and less than 1, got nan",
            lambda: ops.dropout.forward(np.ones(3), float("nan"), 0, 0),
        ),
        Error(
            ValueError,
            "dropout.forward: seed must be an integer in 0..2**64-1, got 18446744073709551616",
            lambda: ops.dropout.forward(np.ones(3), 0.5, 1 << 64, 0),
        ),
        Error(
            ValueError,
            "dropout.forward: offset must be an integer in 0..2**64-1, got -1",
            lambda: ops.dropout.forward(np.ones(3), 0.5, 0, -1),
        ),
        Error(
            ValueError,
            "dropout.forward: offset must be an integer in 0..2**64-1, got -1",
            lambda: ops.dropout.forward(np.ones(3), 0.5, 0, (-1, np.array(1))),
        ),
        Error(
            TypeError,
            "dropout.forward: offset must be an integer, or a pair of one and a 0-d int64 array, "
            "got (int, str)",
            lambda: ops.dropout.forward(np.ones(3), 0.5, 0, (1, "x")),
        ),
        Error(
            TypeError,
            "dropout.forward: offset must be an integer, or a pair of one and a 0-d int64 array, "
            "got (int)",
            lambda: ops.dropout.forward(np.ones(3), 0.5, 0, (1,)),
        ),
        Error(
            ValueError,
            "dropout.forward: offset[1] must have shape (), got (1,)",
            lambda: ops.dropout.forward(np.ones(3), 0.5, 0, (1, np.array([1]))),
        ),
        Error(
            TypeError,
            "dropout.forward: offset[1] must have dtype int64, got int32",
            lambda: ops.dropout.forward(np.ones(3), 0.5, 0, (1, np.array(1, np.int32))),
        ),
    ),
)


ALL = 0xFFFF_FFFF_FFFF_FFFF


def check_parts_of_offset(kernels: Any, double: bool, fixed: int, moving: int) -> None:
    """The sum of both is 9, and so is the mask; the array is read when the kernel runs."""
    x = normal(generator("dropout", "parts"), 1000).astype(np.float64 if double else np.float32)
    offsets: list[philox.Offset] = [9, (fixed, np.array(moving))]
    for kernel, more in (("dropout_forward", [None]), ("dropout_backward", [])):
        results = [np.empty_like(x) for _ in offsets]
        for y, offset in zip(results, offsets, strict=True):
            getattr(kernels, kernel)(y, x, *more, 0.3, 7, offset)
        assert results[0].tobytes() == results[1].tobytes()


class TestDropout(OpSuite):
    op = OP

    @pytest.mark.parametrize(("fixed", "moving"), [(5, 4), (4, 5), (0, 9), (10, -1), (ALL, 10)])
    def test_an_offset_in_two_parts(self, fixed: int, moving: int, backend_name: str) -> None:
        check_parts_of_offset(
            native_kernels(backend_name), backend_name == "reference", fixed, moving
        )


@pytest.mark.parametrize(
    ("group", "seed", "offset", "seven", "ten"),
    [
        (
            0,
            0,
            0,
            "5f6fb709 0d893f64 4f121f81 4f730a48",
            "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
        ),
        (
            ALL,
            ALL,
            ALL,
            "5207ddc2 45165e59 4d8ee751 8c52f662",
            "408f276d 41c83b0e a20bc7c6 6d5451fd",
        ),
        (
            0x85A308D3_243F6A88,
            0x299F31D0_A4093822,
            0x03707344_13198A2E,
            "4dfccaba 190a87f0 c47362ba b6b5242a",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_published_words(
    group: int, seed: int, offset: int, seven: str, ten: str
) -> None:
    """The test vectors that its authors distribute (Random123, kat_vectors, philox4x32)."""
    for rounds, expected in ((7, seven), (10, ten)):
        found = philox.words(np.array([group], np.uint64), seed, offset, rounds)[0]
        assert " ".join(f"{int(word):08x}" for word in found) == expected


def test_two_elements_share_a_word() -> None:
    """Element i takes the low half of word i % 8 / 2 of its group when i is even, else the high."""
    drawn = philox.words(np.arange(3), 5, 6)
    for i, kept in enumerate(philox.keep(1, 24, 0.5, 5, 6)[0]):
        bits = int(drawn[i // 8, i % 8 // 2]) >> (16 * (i % 2)) & 0xFFFF
        assert kept == (bits >= 32768)


@pytest.mark.parametrize("p", [0.0, 1e-6, 0.1, 0.5, 0.999999])
def test_the_scale_belongs_to_the_rate(p: float) -> None:
    """The probability is rounded to 2^-16 and never to 1; the mean is preserved exactly."""
    threshold, scale = philox.rule(p)
    assert abs(threshold / 65536 - p) <= 2.0**-16
    assert scale * (65536 - threshold) == 65536


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
def test_the_rate(p: float) -> None:
    """Within five standard deviations of p, and different for every seed and offset."""
    n = 100_003
    kept = philox.keep(1, n, p, 1, 2)
    assert abs((~kept).mean() - p) <= 5 * np.sqrt(p * (1 - p) / n)
    if p == 0.5:
        for seed, offset in ((2, 2), (1, 3), (2, 1), (1 + (1 << 32), 2), (1, 2 + (1 << 32))):
            same = (kept == philox.keep(1, n, p, seed, offset)).mean()
            assert abs(same - 0.5) <= 5 * 0.5 / np.sqrt(n)


@pytest.mark.parametrize("shift", [0, 1])
def test_cuda_keeps_what_the_cpu_keeps(shift, device_kernels):
    """The same bits, wherever the array begins and ends."""
    for n in (1, 7, 8, 9, 1000, 4097):
        x = np.random.default_rng(n).standard_normal(n + shift).astype(np.float32)[shift:]
        for p in (0.0, 0.25, 0.9):
            ours, theirs = np.empty_like(x), np.empty_like(x)
            device_kernels.dropout_forward(ours, x, None, p, 5, 11)
            backend.cpu().dropout_forward(theirs, x, None, p, 5, 11)
            assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize(("fixed", "moving"), [(5, 4), (10, -1)])
def test_cuda_takes_an_offset_in_two_parts(fixed, moving, device_kernels):
    check_parts_of_offset(device_kernels, False, fixed, moving)


COUNTS = [
    (0, True),
    (2**32, True),
    (2**63, True),
    (2**64 - 1, True),
    (2**64, False),
    (2**64 + 1, False),
    (-1, False),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("count", "good"), COUNTS)
@pytest.mark.parametrize("name", ["seed", "offset", "the fixed part of offset"])
def test_the_bounds_of_seed_and_offset(name, count, good, dtype):
    """Every unsigned 64-bit integer, by each op that draws masks; no other."""
    given = {"seed": 3, "offset": 4}
    if name in given:
        given[name] = count
    else:
        given["offset"] = (count, np.array(0))
    x = np.ones((1, 2, 1, 4), dtype)
    calls = {
        "dropout": lambda: ops.dropout.forward(x, 0.5, **given)[0],
        "attention": lambda: ops.attention.forward(x, x, x, dropout=0.5, **given)[0],
    }
    for op, call in calls.items():
        if good:
            call()
        else:
            word = "seed" if name == "seed" else "offset"
            sentence = f"{op}.forward: {word} must be an integer in 0..2**64-1, got {count}"
            with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
                call()
    if good:
        kept = philox.keep(1, x.size, 0.5, given["seed"], philox.sum_of(given["offset"]))
        assert np.array_equal(calls["dropout"]().reshape(1, -1), 2 * kept)
