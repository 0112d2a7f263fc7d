"""The affine map: the cases, with and without bias, residual and frozen parameters."""

import numpy as np

from byhand import ops
from tests.kernel_case import Call, Error, Op, Sample, generator, normal
from tests.ops.suite import OpSuite
from tests.ops.test_precision import torch_bf16_product


def sample(
    rows: tuple[int, ...],
    k: int,
    n: int,
    b: bool = True,
    add: bool = False,
    frozen: str = "",
    bf16: bool = False,
) -> Sample:
    label = f"{'x'.join(map(str, rows))}-{k}-{n}{'' if b else '-no b'}{'-add' if add else ''}"
    label += (f"-frozen {frozen}" if frozen else "") + ("-bf16" if bf16 else "")
    rng = generator("linear", label)
    return Sample(
        label,
        {
            "x": normal(rng, *rows, k),
            "w": normal(rng, n, k),
            "b": normal(rng, n) if b else None,
            "add": normal(rng, *rows, n) if add else None,
        },
        {"bf16": bf16},
        frozen=frozenset(frozen.split()),
        smooth=not bf16,
    )


def torch_forward(t, o):
    import torch.nn.functional as f

    y = f.linear(t.x, t.w, t.b) if not o["bf16"] else torch_bf16_product(t.x, t.w.T)
    if o["bf16"] and t.b is not None:
        y = y + t.b
    return {"y": y if t.add is None else y + t.add}


def public(c: Call):
    a = c.arrays
    y, saved = ops.linear.forward(a["x"], a["w"], a["b"], a["add"], c.options["bf16"])
    need = "dx" not in c.into
    dx = ops.linear.backward(c.upstream["dy"], saved, c.into["dw"], c.into["db"], need)
    return {"y": y, "dx": dx} if need else {"y": y}


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape)


OP = Op(
    name="linear",
    forward="linear_forward",
    backward="linear_backward",
    samples=(
        sample((2, 3), 17, 5, add=True),
        sample((), 3, 2),
        sample((0,), 3, 2),
        sample((3,), 0, 2, add=True),
        sample((3,), 2, 0),
        sample((1,), 2, 3),
        sample((3,), 1, 2, b=False),
        sample((2,), 3, 1),
        sample((15,), 17, 16, add=True, b=False),
        sample((16,), 31, 33, frozen="dw"),
        sample((17,), 33, 15, frozen="db"),
        sample((31,), 16, 127, frozen="dx"),
        sample((33,), 127, 31, frozen="dw db"),
        sample((127,), 65, 17, frozen="dx db"),
        sample((3,), 1025, 33, add=True),
        sample((5,), 33, 1023),
        sample((1023,), 15, 3),
        sample((1,), 257, 129),
        sample((2, 3), 17, 5, add=True, bf16=True),
        sample((), 3, 2, bf16=True),
        sample((0,), 3, 2, bf16=True),
        sample((3,), 0, 2, bf16=True),
        sample((3,), 1, 2, b=False, bf16=True),
        sample((16,), 31, 33, frozen="dw", bf16=True),
        sample((31,), 16, 127, frozen="dx", bf16=True),
        sample((127,), 65, 17, frozen="db", bf16=True),
        sample((5,), 33, 1023, bf16=True),
        sample((3,), 1025, 33, add=True, bf16=True),
        sample((1023,), 15, 3, bf16=True),
        sample((257,), 127, 193, add=True, bf16=True),
    ),
    big=sample((257,), 127, 193, add=True),
    shapes=lambda s: {"y": (*s.arrays["x"].shape[:-1], s.arrays["w"].shape[0])},
    upstream={"y": "dy"},
    gradients={"x": "dx", "w": "dw", "b": "db", "add": "dy"},
    torch=torch_forward,
    public=public,
    in_place=(("linear_forward", "y", "add"),),
    rows={"linear_forward": ("x", ("y",)), "linear_backward": ("dy", ("dx",))},
    errors=(
        Error(
            TypeError,
            "linear_forward: w must be C-contiguous",
            lambda: ops.linear.forward(ones(2, 3), ones(3, 5).T),
        ),
        Error(
            TypeError,
            "linear_forward: w must be float64",
            lambda: ops.linear.forward(ones(2, 3), np.ones((5, 3), np.float32)),
        ),
    ),
)


class TestLinear(OpSuite):
    op = OP
