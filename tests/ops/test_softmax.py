"""Softmax: the cases; masks, causality, empty rows and large scores."""

from collections.abc import Iterator

import numpy as np
from hypothesis import strategies as st

from byhand import ops
from tests.cuda.rules import EXP2, Rule
from tests.kernel_case import FORWARD, Bug, Call, Cuda, Error, Op, Sample, generator, normal
from tests.ops.sizes import SMALL, WIDTHS, rows_of
from tests.ops.suite import OpSuite


def sample(
    *shape: int,
    mask: str = "",
    scale: float = 0.7,
    causal: bool = False,
    size: float = 1.0,
    smooth: bool = True,
) -> Sample:
    """mask: the axes along which it varies ("..s": only along the keys), or "none seen"."""
    label = f"{'x'.join(map(str, shape))}{'-causal' if causal else ''}"
    label += f"-mask {mask}" if mask else ""
    label += f"-size {size:g}" if size != 1 else ""
    rng = generator("softmax", label)
    seen = None
    if mask:
        axes = mask if len(mask) == len(shape) else "s" * len(shape)
        seen = rng.random([n if a == "s" else 1 for n, a in zip(shape, axes, strict=True)]) < 0.6
        if mask == "none seen":
            seen[..., shape[-2] // 2, :] = False
    x = np.asarray(size, np.float32) * normal(rng, *shape)
    return Sample(label, {"x": x, "mask": seen}, {"scale": scale, "causal": causal}, smooth=smooth)


def shapes(s: Sample) -> dict[str, tuple[int, ...]]:
    x = s.arrays["x"].shape
    return {"y": x, "mask": x}


def seen_keys(t, o, scores):
    """The keys each query may see, in PyTorch; shared with attention."""
    import torch

    seen = torch.ones(scores.shape, dtype=torch.bool)
    if t.mask is not None:
        seen = seen & t.mask
    if o["causal"]:
        queries, keys = scores.shape[-2:]
        late = torch.arange(keys)[None, :] > torch.arange(queries)[:, None] + keys - queries
        seen = seen & ~late
    return seen


def torch_forward(t, o):
    import torch

    z = o["scale"] * t.x
    seen = seen_keys(t, o, z)
    z = torch.where(seen, z, -torch.inf)
    z = torch.where(seen.any(-1, keepdim=True), z, 0)  # PyTorch gives NaN where no key is seen
    return {"y": torch.where(seen, torch.softmax(z, -1), 0)}


def public(c: Call):
    y, saved = ops.softmax.forward(c.arrays["x"], c.arrays["mask"], **c.options)
    return {"y": y, "dx": ops.softmax.backward(c.upstream["dy"], saved)}


def wide() -> Iterator[Sample]:
    """Rows that a block holds and rows that shared memory does not; with a mask; many rows."""
    for columns in WIDTHS:
        yield _of_width(rows_of(columns), columns)
        yield _masked(rows_of(columns), columns)
    yield _of_width(5000, 8)
    yield _of_width(1, 58368)
    yield _of_width(1, 58369)


def _of_width(rows: int, columns: int) -> Sample:
    rng = generator("wide softmax", str(columns))
    options = {"scale": 0.6, "causal": columns % 2 == 0}
    arrays = {"x": 3 * normal(rng, rows, columns), "mask": None}
    return Sample(f"{rows}x{columns}", arrays, options)


def _masked(rows: int, columns: int) -> Sample:
    rng = generator("masked softmax", str(columns))
    seen = rng.random((1, rows, columns)) < 0.5
    seen[0, -1] = False
    arrays = {"x": 3 * normal(rng, 2, rows, columns), "mask": seen}
    return Sample(f"2x{rows}x{columns}-mask", arrays, {"scale": 0.6, "causal": False})


CUDA = Cuda(
    wide=wide,
    instructions=(
        Rule("softmax_forward_rows", needs=(EXP2,)),
        Rule("softmax_backward_rows<.*false>$", loads=2),  # with true it is log_softmax's
    ),
    inexact=("softmax_forward",),
)

BUGS = (
    Bug("mask ignored", "softmax_forward", "if mask is not None", "if False", "masked_scores",
        FORWARD),
    Bug("causal by one", "softmax_forward", "keys - queries", "keys - queries + 1",
        "masked_scores", FORWARD),
    Bug("causal from the start", "softmax_forward", "keys - queries", "0", "masked_scores",
        FORWARD),
    Bug("scale missing forward", "softmax_forward", "scale * x", "x"),
    Bug("no maximum", "softmax_forward", "z - np.where(top == -np.inf, 0, top)", "z", None,
        FORWARD),
    Bug("0/0", "softmax_forward", "np.where(total == 0, 1, total)", "total", None, FORWARD),
    Bug("scale missing backward", "softmax_backward", "scale * y", "y"),
    Bug("sum missing", "softmax_backward", "(dy - (dy * y).sum(axis=-1, keepdims=True))", "dy"),
)  # fmt: skip

OP = Op(
    name="softmax",
    forward="softmax_forward",
    backward="softmax_backward",
    samples=(
        sample(2, 3, 15, mask="sss"),
        sample(0, 3),
        sample(3, 0),
        sample(1, 2),
        sample(2, 1),
        sample(15, 16),
        sample(17, 31, mask="1s"),
        sample(31, 17, mask="s1"),
        sample(5, 33, causal=True),
        sample(33, 5, causal=True),
        sample(2, 3, 16, 127, mask="s1ss", causal=True),
        sample(2, 15, 31, mask="none seen"),
        sample(2, 3, 15, mask="none seen", causal=True),
        sample(3, 1025),
        sample(2, 1023, size=100, scale=1.0, smooth=False),
        sample(3, 33, size=1e4, scale=1.0, smooth=False),
        sample(127, 3, scale=-2.0),
    ),
    big=sample(1023, 257, causal=True),
    shapes=shapes,
    upstream={"y": "dy"},
    gradients={"x": "dx"},
    torch=torch_forward,
    public=public,
    in_place=(("softmax_forward", "y", "x"), ("softmax_backward", "dx", "dy")),
    rows={"softmax_forward": ("x", ("y",)), "softmax_backward": ("dy", ("dx",))},
    planted=BUGS,
    drawn=st.builds(
        lambda shape, mask, causal: sample(
            *shape, mask=mask * (len(shape) - 1) + "s", causal=causal
        ),
        st.lists(SMALL, min_size=2, max_size=3),
        st.sampled_from("1s"),
        st.booleans(),
    ),
    past_caches=True,
    cuda=CUDA,
    errors=(
        Error(
            ValueError,
            "softmax.forward: mask must have shape that broadcasts to (2, 3), got (2,)",
            lambda: ops.softmax.forward(np.ones((2, 3)), np.ones(2, bool)),
        ),
        Error(
            TypeError,
            "softmax.forward: mask must have dtype bool, got float64",
            lambda: ops.softmax.forward(np.ones((2, 3)), np.ones((2, 3))),
        ),
        Error(
            ValueError,
            "softmax.forward: x must have shape (..., T, S), got (3,)",
            lambda: ops.softmax.forward(np.ones(3), causal=True),
        ),
        Error(
            TypeError,
            "softmax.backward: dy is float32 and the saved y is float64: all arrays of a call",
            lambda: ops.softmax.backward(
                np.ones((2, 3), np.float32), ops.softmax.forward(np.ones((2, 3)))[1]
            ),
        ),
    ),
)


class TestSoftmax(OpSuite):
    op = OP

    def test_rows_sum_to_one_or_zero(self) -> None:
        for case in OP.samples:
            y, _ = ops.softmax.forward(
                case.arrays["x"].astype(np.float64), case.arrays["mask"], **case.options
            )
            total = y.sum(axis=-1)
            np.testing.assert_allclose(total[total > 0], 1, rtol=1e-14)

    def test_an_unseen_nan_is_not_seen(self, native: str) -> None:
        from byhand import backend

        x = np.ones((2, 17), np.float32)
        x[0, 5] = np.nan
        mask = ~np.isnan(x)
        with backend.use_cpu(native):
            y, _ = ops.softmax.forward(x, mask)
        expected, _ = ops.softmax.forward(x.astype(np.float64), mask)
        np.testing.assert_allclose(y, expected, rtol=1e-6)
