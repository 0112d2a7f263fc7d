"""The gradient's norm and its clipping."""

from collections.abc import Iterator

import numpy as np
import pytest

from byhand import ops
from tests.cuda.rules import Rule
from tests.kernel_case import (
    FORWARD,
    NUMERIC,
    Bug,
    Call,
    Cuda,
    Error,
    Op,
    Sample,
    generator,
    normal,
)
from tests.ops.suite import OpSuite, native_kernels


def norm_sample(*shape: int, size: float = 1.0) -> Sample:
    label = f"{'x'.join(map(str, shape))}-size {size:g}"
    g = np.asarray(size * normal(generator("grad_norm", label), *shape), np.float32)
    return Sample(label, {"g": g})


def clip_sample(*shape: int, norm: float) -> Sample:
    label = f"{'x'.join(map(str, shape))}-norm {norm:g}"
    g = normal(generator("clip", label), *shape)
    return Sample(label, {"g": g, "norm": np.asarray(norm, np.float32)}, {"max_norm": 0.75})


def torch_norm(t, o):
    import torch

    return {"norm": torch.linalg.vector_norm(t.g)}


def torch_clip(t, o):
    import torch

    return {"g": t.g * torch.clamp(o["max_norm"] / (t.norm + 1e-6), max=1.0)}


def public_norm(c: Call):
    return {"norm": ops.grad_norm.norm(c.arrays["g"])}


def public_clip(c: Call):
    ops.grad_norm.clip(c.arrays["g"], c.arrays["norm"], **c.options)
    return {"g": c.arrays["g"]}


SIZES = (1023, 1 << 16, (1 << 16) + 3, 1 << 20, (1 << 20) + 3)


def wide_norm() -> Iterator[Sample]:
    for size in SIZES:
        yield Sample(f"{size}", {"g": normal(generator("grad_norm", "flat", str(size)), size)})


def wide_clip() -> Iterator[Sample]:
    norm = np.asarray(3.0, np.float32)
    for size in SIZES:
        g = normal(generator("clip", "flat", str(size)), size)
        yield Sample(f"{size}", {"g": g, "norm": norm}, {"max_norm": 0.75})


NORM_BUGS = (
    Bug("not rooted", "grad_norm", "np.sqrt(work.sum(dtype=np.float64))",
        "work.sum(dtype=np.float64)", None, FORWARD),
    Bug("last share lost", "grad_norm", "range(work.size)", "range(max(work.size - 1, 1))", None,
        NUMERIC),
)  # fmt: skip

NORM = Op(
    name="grad_norm",
    forward="grad_norm",
    samples=(
        norm_sample(2, 3, 17),
        norm_sample(),
        norm_sample(0),
        norm_sample(1),
        norm_sample(3),
        norm_sample(15),
        norm_sample(31, 33),
        norm_sample(127),
        norm_sample(1023),
        norm_sample(1025),
        norm_sample(5, 16, size=1e4),
        norm_sample(4097, size=1e-4),
    ),
    big=norm_sample(300_001),
    shapes=lambda s: {"norm": (), "work": (max(1, -(-s.arrays["g"].size // 4096)),)},
    torch=torch_norm,
    public=public_norm,
    planted=NORM_BUGS,
    cuda=Cuda(wide=wide_norm, instructions=(Rule("grad_norm_squares", loads=4, stores=0),)),
    errors=(
        Error(
            TypeError,
            "grad_norm: g must be C-contiguous",
            lambda: ops.grad_norm.norm(np.ones((3, 4))[:, 1:]),
        ),
    ),
)

CLIP_BUGS = (
    Bug("made longer", "clip", "np.minimum(1, max_norm / (norm + 1e-6))",
        "np.asarray(max_norm / (norm + 1e-6))", "clip_factor", FORWARD),
)  # fmt: skip

CLIP = Op(
    name="clip",
    forward="clip",
    samples=tuple(
        clip_sample(*shape, norm=norm)
        for shape in ((2, 3, 17), (), (0,), (1,), (15,), (31, 33), (1025,))
        for norm in (0.0, 0.5, 3.0)
    ),
    big=clip_sample(300_001, norm=3.0),
    shapes=lambda s: {},
    torch=torch_clip,
    public=public_clip,
    planted=CLIP_BUGS,
    cuda=Cuda(wide=wide_clip, instructions=(Rule("clip_scale"),)),
    errors=(
        Error(
            ValueError,
            "grad_norm.clip: max_norm must be positive, got 0.0",
            lambda: ops.grad_norm.clip(np.ones(3), np.ones(()), 0.0),
        ),
        Error(
            TypeError,
            "clip: g is read-only",
            lambda: ops.grad_norm.clip(np.broadcast_to(1.0, (1, 1)), np.ones(()), 1.0),
        ),
    ),
)


class TestGradNorm(OpSuite):
    op = NORM
    test_finite_differences = None  # it has no gradient

    @pytest.mark.parametrize("shares", [1, 2, 3, 7, 100])
    def test_any_number_of_shares(self, backend_name: str, shares: int) -> None:
        check_shares(native_kernels(backend_name).grad_norm, shares, backend_name)


def check_shares(grad_norm, shares: int, backend_name: str = "") -> None:
    """work[p] is the sum of squares of share p, 0 for an empty share; norm is that of all."""
    dtype = np.float64 if backend_name == "reference" else np.float32
    g = normal(generator("grad_norm", "shares"), 5 * 4096 + 17).astype(dtype)
    norm, work = np.full((), np.nan, dtype), np.full(shares, np.nan, dtype)
    grad_norm(norm, work, g)
    each = 4096 * -(-6 // shares)
    squares = np.square(g, dtype=np.float64)
    expected = [squares[p * each : (p + 1) * each].sum() for p in range(shares)]
    np.testing.assert_allclose(work, expected, rtol=1e-6)
    np.testing.assert_allclose(norm, np.sqrt(squares.sum()), rtol=1e-6)


class TestClip(OpSuite):
    op = CLIP
    test_finite_differences = None  # it has no gradient

    def test_a_norm_that_is_small_enough_changes_nothing(self) -> None:
        g = normal(generator("clip", "same"), 17)
        before = g.copy()
        ops.grad_norm.clip(g, np.asarray(0.5, np.float32), 0.75)
        assert g.tobytes() == before.tobytes()
