"""A linear function of every element: the cases."""

from __future__ import annotations

from collections.abc import Iterator

from byhand import ops
from tests.cuda.rules import Rule
from tests.kernel_case import FORWARD, Bug, Call, Cuda, Op, Sample, generator, normal
from tests.ops.sizes import SHAPE, WIDTHS, rows_of
from tests.ops.suite import OpSuite


def sample(*shape: int, scale: float = 0.7, shift: float = -1.5) -> Sample:
    label = "x".join(map(str, shape)) + f"-scale {scale:g}"
    x = normal(generator("scale_shift", label), *shape)
    return Sample(label, {"x": x}, {"scale": scale, "shift": shift})


def torch_forward(t, o):
    return {"y": o["scale"] * t.x + o["shift"]}


def public(c: Call):
    y, saved = ops.scale_shift.forward(c.arrays["x"], **c.options)
    return {"y": y, "dx": ops.scale_shift.backward(c.upstream["dy"], saved)}


def wide() -> Iterator[Sample]:
    for columns in WIDTHS:
        yield sample(rows_of(columns), columns)


OP = Op(
    name="scale_shift",
    forward="scale_shift_forward",
    backward="scale_shift_backward",
    samples=(
        sample(2, 3, 17),
        sample(),
        sample(0, 3),
        sample(3, 0),
        sample(1),
        sample(15, 16, scale=0.0),
        sample(31, 33),
        sample(2, 1023),
        sample(3, 1025),
    ),
    big=sample(1023, 129),
    shapes=lambda s: {"y": s.arrays["x"].shape},
    upstream={"y": "dy"},
    gradients={"x": "dx"},
    torch=torch_forward,
    public=public,
    in_place=(("scale_shift_forward", "y", "x"), ("scale_shift_backward", "dx", "dy")),
    rows={"scale_shift_forward": ("x", ("y",)), "scale_shift_backward": ("dy", ("dx",))},
    planted=(
        Bug("no shift", "scale_shift_forward", " + shift", "", None, FORWARD),
        Bug("no scale", "scale_shift_backward", "scale * dy", "dy"),
    ),
    drawn=SHAPE.map(lambda shape: sample(*shape)),
    past_caches=True,
    cuda=Cuda(wide=wide, instructions=(Rule("scale_shift_elements"),)),
)


class TestScaleShift(OpSuite):
    op = OP
