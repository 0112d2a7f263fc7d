"""The product of two activations, each transposed or not."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import strategies as st

from byhand import ops
from tests.kernel_case import Bug, Call, Cuda, Error, Op, Sample, generator, normal
from tests.ops.sizes import SMALL
from tests.ops.suite import OpSuite
from tests.ops.test_precision import torch_bf16_product


def sample(
    m: int, k: int, n: int, transposed: str = "", frozen: str = "", bf16: bool = False
) -> Sample:
    label = f"{m}-{k}-{n}{'-' if transposed else ''}{transposed}"
    label += (f"-frozen {frozen}" if frozen else "") + ("-bf16" if bf16 else "")
    rng = generator("matmul", label)
    a, b = "a" in transposed, "b" in transposed
    return Sample(
        label,
        {
            "a": normal(rng, *((k, m) if a else (m, k))),
            "b": normal(rng, *((n, k) if b else (k, n))),
        },
        {"transpose_a": a, "transpose_b": b, "bf16": bf16},
        frozen=frozenset(frozen.split()),
        smooth=not bf16,
    )


def shapes(s: Sample) -> dict[str, tuple[int, ...]]:
    a, b = s.arrays["a"].shape, s.arrays["b"].shape
    m = a[1] if s.options["transpose_a"] else a[0]
    return {"c": (m, b[0] if s.options["transpose_b"] else b[1])}


def torch_forward(t, o):
    a, b = t.a.T if o["transpose_a"] else t.a, t.b.T if o["transpose_b"] else t.b
    return {"c": torch_bf16_product(a, b) if o["bf16"] else a @ b}


def public(c: Call):
    y, saved = ops.matmul.forward(c.arrays["a"], c.arrays["b"], **c.options)
    da, db = ops.matmul.backward(c.upstream["dc"], saved)
    return {n: a for n, a in {"c": y, "da": da, "db": db}.items() if n not in c.into}


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape)


def wide() -> Iterator[Sample]:
    """Sizes around a tile and its steps, packed and not; several tiles and bands of tiles; so deep
    that the depth is cut in pieces, the last one shorter.
    """
    for i, transposed in enumerate(("", "a", "b", "ab")):
        yield sample(129, 63, 65, transposed)
        yield sample(64, 200, 136, transposed)
        yield sample((1, 17, 127, 200)[i], 128, 128, transposed, bf16=True)
        yield sample(136, (8, 24, 40, 72)[i], 64, transposed, bf16=True)
        yield sample(24, 2136, 40, transposed)
        yield sample(19, 2117, 23, transposed)
    yield sample(1160, 8, 264)


CUDA = Cuda(wide=wide, inexact=("matmul_forward", "matmul_backward"))

BUGS = (
    Bug("da not turned back", "matmul_backward", "g.T if transpose_a else g",
        "g.reshape(da.shape)"),
    Bug("db not turned back", "matmul_backward", "g.T if transpose_b else g",
        "g.reshape(db.shape)"),
    Bug("written is added", "matmul_backward", "db[...] = ", "db[...] += "),
)  # fmt: skip

OP = Op(
    name="matmul",
    forward="matmul_forward",
    backward="matmul_backward",
    samples=(
        sample(2, 3, 5),
        sample(0, 3, 2),
        sample(3, 0, 2),
        sample(3, 2, 0),
        sample(1, 2, 3, "ab"),
        sample(2, 1, 3, "a"),
        sample(3, 2, 1, "b"),
        sample(15, 17, 16, "a"),
        sample(16, 33, 31, "b", frozen="da"),
        sample(33, 31, 17, "ab", frozen="db"),
        sample(127, 15, 33),
        sample(31, 127, 65, "a", frozen="da db"),
        sample(3, 1025, 17, "b"),
        sample(17, 5, 1023, "ab"),
        sample(1023, 3, 16),
        sample(2, 3, 5, bf16=True),
        sample(3, 0, 2, bf16=True),
        sample(15, 17, 16, "a", bf16=True),
        sample(16, 33, 31, "b", frozen="da", bf16=True),
        sample(33, 31, 17, "ab", frozen="db", bf16=True),
        sample(127, 15, 33, bf16=True),
        sample(17, 5, 1023, "ab", bf16=True),
        sample(257, 129, 193, "a", bf16=True),
    ),
    big=sample(257, 129, 193, "b"),
    shapes=shapes,
    upstream={"c": "dc"},
    gradients={"a": "da", "b": "db"},
    torch=torch_forward,
    public=public,
    planted=BUGS,
    drawn=st.builds(sample, SMALL, SMALL, SMALL, st.sampled_from(["", "a", "b", "ab"])),
    cuda=CUDA,
    errors=(
        Error(
            ValueError,
            "matmul.forward: a must have shape (M, K), got (3,)",
            lambda: ops.matmul.forward(ones(3), ones(3, 2)),
        ),
        Error(
            ValueError,
            "matmul.forward: b must have shape (N, K), got (2, 2, 3)",
            lambda: ops.matmul.forward(ones(2, 3), ones(2, 2, 3), transpose_b=True),
        ),
        Error(
            ValueError,
            "matmul.forward: b must have shape (3, 5), got (2, 5)",
            lambda: ops.matmul.forward(ones(2, 3), ones(2, 5)),
        ),
        Error(
            ValueError,
            "matmul.forward: b must have shape (5, 3), got (5, 2)",
            lambda: ops.matmul.forward(ones(3, 2), ones(5, 2), True, True),
        ),
        Error(
            ValueError,
            "matmul.backward: dy must have shape (2, 5), got (5, 2)",
            lambda: ops.matmul.backward(ones(5, 2), ops.matmul.forward(ones(2, 3), ones(3, 5))[1]),
        ),
        Error(
            TypeError,
            "matmul_forward: b must be C-contiguous",
            lambda: ops.matmul.forward(ones(2, 3), ones(5, 3).T),
        ),
    ),
)


class TestMatmul(OpSuite):
    op = OP


@pytest.mark.parametrize("transposed", [False, True])
def test_cuda_adds_the_pieces_of_a_depth_in_their_order(transposed, device_kernels):
    """2^30 + 1 is 2^30 in float32, so the sum depends on the order of its terms."""
    depth = 3 * 512  # of one tile: three pieces
    b = np.ones((depth, 20), np.float32)
    for values, expected in (((1, 2**30, -(2**30)), 0), ((2**30, -(2**30), 1), 1)):
        a, c = np.zeros((17, depth), np.float32), np.full((17, 20), np.nan, np.float32)
        a[:, ::512] = values
        a = a.T.copy() if transposed else a
        device_kernels.matmul_forward(c, a, b, transposed, False, False)
        assert (c == expected).all()
