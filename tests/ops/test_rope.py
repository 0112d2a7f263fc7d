"""Rotary positions: the cases; both kinds of pairs, partial ones, packed arrays, in place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from byhand import backend, ops
from tests.cuda.rules import Rule
from tests.kernel_case import Bug, Call, Cuda, Error, Op, Sample, generator, normal
from tests.ops.sizes import FEW, SMALL
from tests.ops.suite import OpSuite, native_kernels


def sample(
    b: int,
    t: int,
    h: int,
    d: int,
    pairs: int | None = None,
    interleaved: bool = False,
    start: int = 0,
    placed: bool = False,
    layout: str = "contiguous",
    more: int = 3,
) -> Sample:
    """pairs: how many of a head, None: all. placed: positions are given, in any order. more: rows
    of the tables after those of the positions.
    """
    pairs = d // 2 if pairs is None else min(pairs, d // 2)
    label = f"{b}x{t}x{h}x{d}-{pairs}{'-interleaved' if interleaved else ''}"
    label += f"-start {start}" * bool(start) + "-placed" * placed + f"-{layout}" * (layout[0] > "c")
    rng = generator("rope", label)
    rows = start + t + more
    # Not a rotation: cosines and sines of no angle, so that neither stands for the other.
    return Sample(
        label,
        {
            "x": normal(rng, b, t, h, d),
            "cos": normal(rng, rows, pairs),
            "sin": normal(rng, rows, pairs),
            "positions": rng.integers(0, rows, (b, t)) if placed else None,
        },
        {"start": start, "interleaved": interleaved},
        layout=layout,
    )


def torch_forward(t, o):
    import torch

    rows = torch.arange(o["start"], o["start"] + t.x.shape[1])[None]
    rows = rows if t.positions is None else t.positions
    turns = torch.complex(t.cos, t.sin)[rows][:, :, None]
    part, rest = t.x[..., : 2 * t.cos.shape[1]], t.x[..., 2 * t.cos.shape[1] :]
    shape = part.shape
    if o["interleaved"]:
        pairs = part.reshape(*shape[:-1], shape[-1] // 2, 2)
    else:
        pairs = part.reshape(*shape[:-1], 2, shape[-1] // 2).transpose(-1, -2)
    turned = torch.complex(pairs[..., 0], pairs[..., 1]) * turns
    turned = torch.stack((turned.real, turned.imag), -1)
    if not o["interleaved"]:
        turned = turned.transpose(-1, -2)
    return {"y": torch.cat((turned.reshape(shape), rest), -1)}


def public(c: Call):
    a = c.arrays
    y, saved = ops.rope.forward(a["x"], a["cos"], a["sin"], a["positions"], **c.options)
    return {"y": y, "dx": ops.rope.backward(c.upstream["dy"], saved)}


def wide() -> Iterator[Sample]:
    """Heads of every width with and without whole packs, few heads and many, several blocks."""
    for interleaved in (False, True):
        yield sample(2, 70, 3, 64, interleaved=interleaved, layout="transposed")
        yield sample(1, 9, 33, 128, interleaved=interleaved, placed=True)
        yield sample(3, 5, 2, 96, pairs=16, interleaved=interleaved, start=4)
        yield sample(1, 3, 70, 80, pairs=20, interleaved=interleaved)
        yield sample(1, 4, 2, 17, pairs=5, interleaved=interleaved, layout="padded")
        yield sample(2, 1, 4, 1100, interleaved=interleaved, start=7)


CUDA = Cuda(
    wide=wide,
    instructions=(Rule("rope_rotate", loads=9, stores=5),),  # two groups of pairs, the rest
)

BUGS = (
    Bug("turned the other way", "rope_forward", "a * cos - b * sin", "a * cos + b * sin",
        "_rotated"),
    Bug("other pairs", "rope_forward", "[-1], interleaved)", "[-1], not interleaved)", "_rotated"),
    Bug("start ignored", "rope_forward", "np.arange(start, start + x.shape[1])",
        "np.arange(x.shape[1])", "_rows"),
    Bug("positions ignored", "rope_forward", "_rows(x, positions, start)",
        "_rows(x, None, start)"),
    Bug("rest not copied", "rope_forward", "y = x.copy()", "y = 0 * x", "_rotated"),
    Bug("turned forward again", "rope_backward", "cos, -sin,", "cos, sin,"),
    Bug("not interleaved", "rope_backward", "start), interleaved)", "start), False)"),
    Bug("one position on", "rope_backward", "_rows(dy, positions, start)",
        "_rows(dy, positions, start + 1)"),
)  # fmt: skip


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape)


TABLES = (ones(7, 2), ones(7, 2))
SAVED = ((1, 2, 2, 4), *TABLES, None, 0, False)

OP = Op(
    name="rope",
    forward="rope_forward",
    backward="rope_backward",
    samples=(
        sample(2, 5, 3, 8, pairs=3, start=2, placed=True),
        sample(2, 5, 3, 8, pairs=3, start=2, placed=True, interleaved=True),
        sample(0, 2, 3, 4),
        sample(2, 0, 3, 4),
        sample(2, 3, 0, 4),
        sample(2, 3, 4, 0),
        sample(2, 3, 4, 1),
        sample(2, 3, 4, 6, pairs=0),
        sample(1, 1, 1, 2, start=3),
        sample(1, 1, 1, 2, start=3, interleaved=True),
        sample(3, 4, 2, 7, start=1),
        sample(3, 4, 2, 7, start=1, interleaved=True),
        sample(2, 9, 3, 32, layout="padded"),
        sample(2, 9, 3, 32, interleaved=True, layout="padded"),
        sample(2, 7, 5, 33, pairs=9, layout="transposed"),
        sample(2, 7, 5, 33, pairs=9, interleaved=True, layout="transposed"),
        sample(1, 3, 2, 62, placed=True),
        sample(1, 3, 2, 62, placed=True, interleaved=True),
        sample(2, 4, 3, 64, start=5),
        sample(2, 4, 3, 64, start=5, interleaved=True, layout="transposed"),
        sample(1, 5, 2, 96, pairs=16, placed=True),
        sample(1, 5, 2, 96, pairs=16, interleaved=True),
        sample(1, 2, 2, 160, pairs=78),
        sample(3, 5, 4, 128, placed=True, layout="transposed"),
    ),
    big=sample(3, 67, 9, 66, pairs=31),
    shapes=lambda s: {"y": s.arrays["x"].shape},
    upstream={"y": "dy"},
    gradients={"x": "dx"},
    torch=torch_forward,
    public=public,
    in_place=(("rope_forward", "y", "x"), ("rope_backward", "dx", "dy")),
    rows={"rope_forward": ("x", ("y",)), "rope_backward": ("dy", ("dx",))},
    planted=BUGS,
    drawn=st.builds(
        sample,
        FEW,
        SMALL,
        FEW,
        SMALL,
        pairs=st.one_of(st.none(), SMALL),
        interleaved=st.booleans(),
        start=FEW,
        placed=st.booleans(),
        layout=st.sampled_from(["contiguous", "padded", "transposed"]),
    ),
    past_caches=True,
    cuda=CUDA,
    errors=(
        Error(
            ValueError,
            "rope.forward: cos must have shape (N, F) with F of at most 1, got (7, 2), where x has "
            "shape (1, 5, 2, 3)",
            lambda: ops.rope.forward(ones(1, 5, 2, 3), *TABLES),
        ),
        Error(
            ValueError,
            "rope.forward: the positions 3..7 are outside the rows of cos and sin 0..6",
            lambda: ops.rope.forward(ones(1, 5, 2, 4), *TABLES, start=3),
        ),
        Error(
            ValueError,
            "rope.forward: the positions -1..3 are outside the rows of cos and sin 0..6",
            lambda: ops.rope.forward(ones(1, 5, 2, 4), *TABLES, start=-1),
        ),
        Error(
            IndexError,
            "rope.forward: positions[0, 1] = 7 is outside the rows of cos and sin 0..6",
            lambda: ops.rope.forward(ones(1, 2, 2, 4), *TABLES, np.array([[0, 7]])),
        ),
        Error(
            TypeError,
            "rope.forward: positions must have dtype int64, got float64",
            lambda: ops.rope.forward(ones(1, 2, 2, 4), *TABLES, ones(1, 2)),
        ),
        Error(
            TypeError,
            "rope.forward: x must have a contiguous last axis",
            lambda: ops.rope.forward(ones(1, 2, 2, 8)[..., ::2], *TABLES),
        ),
        Error(
            TypeError,
            "rope.forward: out must have a contiguous last axis",
            lambda: ops.rope.forward(ones(1, 2, 2, 4), *TABLES, out=ones(1, 2, 2, 8)[..., ::2]),
        ),
        Error(
            TypeError,
            "rope.backward: dy must have a contiguous last axis",
            lambda: ops.rope.backward(ones(1, 2, 2, 8)[..., ::2], SAVED),
        ),
        Error(
            TypeError,
            "rope.backward: out is read-only",
            lambda: ops.rope.backward(
                ones(1, 2, 2, 4), SAVED, np.broadcast_to(ones(4), (1, 2, 2, 4))
            ),
        ),
        Error(
            TypeError,
            "rope.backward: dy is float64 and out is float32: all arrays of a call",
            lambda: ops.rope.backward(ones(1, 2, 2, 4), SAVED, ones(1, 2, 2, 4).astype("f")),
        ),
    ),
)


class TestRope(OpSuite):
    op = OP

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_in_one_packed_array(self, dtype: type) -> None:
        """Queries and keys of a packed array in place: the values between them stay."""
        rng = generator("rope", "packed")
        packed = normal(rng, 2, 9, 7, 16).astype(dtype)
        before = packed.copy()
        cos, sin = (normal(rng, 9, 8).astype(dtype) for _ in range(2))
        part = packed[:, :, :5]
        y, saved = ops.rope.forward(part, cos, sin, out=part)
        assert y is part
        apart = ops.rope.forward(before[:, :, :5], cos, sin)[0]
        assert packed[:, :, :5].tobytes() == apart.tobytes()
        assert packed[:, :, 5:].tobytes() == before[:, :, 5:].tobytes()
        dx = ops.rope.backward(apart, saved)
        gradient = packed.copy()
        ops.rope.backward(gradient[:, :, :5], saved, out=gradient[:, :, :5])
        assert gradient[:, :, :5].tobytes() == dx.tobytes()

    @pytest.mark.parametrize("bad", [-1, 7, 1 << 40])
    def test_a_native_kernel_refuses_a_position_outside(self, native: str, bad: int) -> None:
        kernels = backend.cpu_modules()[native]
        x, table = np.ones((1, 2, 3, 4), np.float32), np.ones((7, 2), np.float32)
        for kernel in (kernels.rope_forward, kernels.rope_backward):
            y = np.zeros_like(x)
            with pytest.raises(IndexError):
                kernel(y, x, table, table, np.array([[0, bad]]), 0, False)
            with pytest.raises(IndexError):
                kernel(y, x, table, table, None, bad if bad < 7 else bad - 1, False)
            assert not y.any()

    def test_a_native_kernel_refuses_gaps(self, native: str) -> None:
        kernels = backend.cpu_modules()[native]
        x, table = np.ones((1, 2, 3, 4), np.float32), np.ones((7, 1), np.float32)
        for y, source, name in ((x[..., ::2], x[..., :2], "y"), (x[..., :2], x[..., ::2], "x")):
            with pytest.raises(TypeError, match=f"rope_forward: {name} must have a contiguous"):
                kernels.rope_forward(y, source, table, table, None, 0, False)

    def test_products_depend_on_the_distance_only(self, backend_name: str) -> None:
        """<R_i q, R_j k> = <R_(i+9) q, R_(j+9) k>, and the length of a vector stays."""
        dtype = np.float64 if backend_name == "reference" else np.float32
        rng = generator("rope", "distance")
        q, k = (np.repeat(normal(rng, 1, 1, 2, 12), 30, 1).astype(dtype) for _ in range(2))
        angles = np.arange(30)[:, None] * rng.random(6)
        tables = np.cos(angles).astype(dtype), np.sin(angles).astype(dtype)
        kernels = native_kernels(backend_name)
        for interleaved in (False, True):
            turned = [np.empty_like(q) for _ in range(2)]
            for y, x in zip(turned, (q, k), strict=True):
                kernels.rope_forward(y, x, *tables, None, 0, interleaved)
            products = np.einsum("bihd,bjhd->bhij", *turned)
            close: dict[str, Any] = dict(rtol=0, atol=1e-4 if dtype == np.float32 else 1e-13)
            np.testing.assert_allclose(products[..., :-9, :-9], products[..., 9:, 9:], **close)
            lengths = (turned[0] ** 2).sum(-1)
            np.testing.assert_allclose(lengths, (q**2).sum(-1), **close)
            assert np.ptp(products) > 1


@pytest.mark.parametrize("bad", [-1, 5, 2**40, -(2**40)])
@pytest.mark.parametrize("width", [6, 16])
@pytest.mark.parametrize("interleaved", [False, True])
def test_cuda_gives_nan_for_a_position_outside(bad, width, interleaved, device_kernels):
    rng = np.random.default_rng(width)
    x = rng.standard_normal((2, 3, 2, width)).astype(np.float32)
    cos, sin = (rng.standard_normal((5, width // 2)).astype(np.float32) for _ in range(2))
    positions = np.array([[4, bad, 0], [bad, 2, 1]])
    y = np.zeros_like(x)
    device_kernels.rope_forward(y, x, cos, sin, positions, 0, interleaved)
    outside = positions == bad
    assert np.isnan(y[outside]).all()
    assert np.isfinite(y[~outside]).all()
    with pytest.raises(IndexError, match="rope_forward: the positions from 3 to 5 are outside"):
        device_kernels.rope_forward(y, x, cos, sin, None, 3, interleaved)
