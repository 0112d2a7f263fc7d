"""Log-softmax: the cases; large scores do not give -inf."""

from collections.abc import Iterator

import numpy as np

from byhand import ops
from tests.cuda.rules import EXP2, Rule
from tests.kernel_case import FORWARD, Bug, Call, Cuda, Error, Op, Sample, generator, normal
from tests.ops.sizes import SHAPE, WIDTHS, rows_of
from tests.ops.suite import OpSuite


def sample(*shape: int, size: float = 1.0, smooth: bool = True) -> Sample:
    label = "x".join(map(str, shape)) + (f"-size {size:g}" if size != 1 else "")
    x = np.asarray(size, np.float32) * normal(generator("log_softmax", label), *shape)
    return Sample(label, {"x": x}, smooth=smooth)


def torch_forward(t, o):
    import torch

    return {"y": torch.log_softmax(t.x, -1)}


def public(c: Call):
    y, saved = ops.log_softmax.forward(c.arrays["x"])
    return {"y": y, "dx": ops.log_softmax.backward(c.upstream["dy"], saved)}


def wide() -> Iterator[Sample]:
    for columns in WIDTHS:
        rng, rows = generator("wide log_softmax", str(columns)), rows_of(columns)
        yield Sample(f"{rows}x{columns}", {"x": 3 * normal(rng, rows, columns)})


CUDA = Cuda(
    wide=wide,
    instructions=(Rule("softmax_backward_rows<.*true>$", loads=2, needs=(EXP2,)),),
    inexact=("log_softmax_forward", "log_softmax_backward"),
)

BUGS = (
    Bug("log of softmax", "log_softmax_forward",
        "z - np.log(np.exp(z).sum(axis=-1, keepdims=True))",
        "np.log(np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True))", None, FORWARD),
    Bug("exp missing", "log_softmax_backward", "np.exp(y) * ", ""),
    Bug("sign", "log_softmax_backward", "dy - ", "dy + "),
)  # fmt: skip

OP = Op(
    name="log_softmax",
    forward="log_softmax_forward",
    backward="log_softmax_backward",
    samples=(
        sample(2, 3, 17),
        sample(0, 3),
        sample(3, 0),
        sample(1, 2),
        sample(2, 1),
        sample(16, 15),
        sample(31, 33),
        sample(127, 31),
        sample(2, 1023),
        sample(3, 1025),
        sample(3, 33, size=1e4, smooth=False),
    ),
    big=sample(1023, 257),
    shapes=lambda s: {"y": s.arrays["x"].shape},
    upstream={"y": "dy"},
    gradients={"x": "dx"},
    torch=torch_forward,
    public=public,
    in_place=(("log_softmax_forward", "y", "x"), ("log_softmax_backward", "dx", "dy")),
    rows={"log_softmax_forward": ("x", ("y",)), "log_softmax_backward": ("dy", ("dx",))},
    planted=BUGS,
    drawn=SHAPE.map(lambda shape: sample(*shape)),
    past_caches=True,
    cuda=CUDA,
    errors=(
        Error(
            TypeError,
            "log_softmax_forward: x must be C-contiguous",
            lambda: ops.log_softmax.forward(np.ones((3, 4))[:, ::2]),
        ),
    ),
)


class TestLogSoftmax(OpSuite):
    op = OP
