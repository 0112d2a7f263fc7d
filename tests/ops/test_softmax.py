"""Softmax: the cases; masks, causality, empty rows and large scores."""

import numpy as np

from byhand import ops
from tests.kernel_case import Call, Error, Op, Sample, generator, normal
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
    z = torch.where(seen.any(-1, keepdim=True), z, 0)  # PyTorch has NaN where nothing is seen
    return {"y": torch.where(seen, torch.softmax(z, -1), 0)}


def public(c: Call):
    y, saved = ops.softmax.forward(c.arrays["x"], c.arrays["mask"], **c.options)
    return {"y": y, "dx": ops.softmax.backward(c.upstream["dy"], saved)}


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
            "softmax_backward: dy must be float64",
            lambda: ops.softmax.backward(
                np.ones((2, 3), np.float32), ops.softmax.forward(np.ones((2, 3)))[1]
            ),
        ),
    ),
)


class TestSoftmax(OpSuite):
    op = OP

    def test_rows_sum_to_one_or_nothing(self) -> None:
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
