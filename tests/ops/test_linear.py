"""The affine map: the cases, with and without bias, residual and frozen parameters."""

from collections.abc import Iterator

import numpy as np
from hypothesis import strategies as st

from byhand import ops
from tests.cuda.rules import Rule
from tests.kernel_case import ROUNDING, Bug, Call, Cuda, Error, Op, Sample, generator, normal
from tests.ops.sizes import SMALL
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


def wide() -> Iterator[Sample]:
    """Sizes around a tile and its steps; so deep that the depth is cut in pieces; few rows."""
    yield sample((128,), 96, 136, add=True)
    yield sample((65,), 128, 64, b=False)
    yield sample((200,), 64, 72, add=True, bf16=True)
    yield sample((2000,), 16, 40, frozen="dx")
    yield sample((2100,), 24, 40, add=True)
    yield sample((17,), 2056, 16, bf16=True)
    for rows, inner, cols in ((1, 64, 17), (3, 520, 40), (8, 1024, 33), (15, 40, 72), (16, 8, 24)):
        yield sample((rows,), inner, cols, add=rows % 2 == 1, frozen="dw")
        yield sample((rows,), inner, cols, b=False, bf16=True, frozen="dw")


CUDA = Cuda(
    wide=wide,
    instructions=(Rule("column_sums(?!<.*Gradients)", stores=0),),
    inexact=("linear_forward", "linear_backward"),
)

BUGS = (
    Bug("bias forgotten", "linear_forward", "out = out + b", "pass"),
    Bug("residual forgotten", "linear_forward", "out + add", "out"),
    Bug("w not rounded", "linear_forward", "operands(bf16, x, w)",
        "(*operands(bf16, x), w)", None, ROUNDING),
    Bug("bias rounded", "linear_forward", "out + b", "out + operands(bf16, b)[0]", None, ROUNDING),
    Bug("dw transposed", "linear_backward", "dw += as_rows(dy).T @ as_rows(x)",
        "dw += (as_rows(x).T @ as_rows(dy)).reshape(dw.shape)"),
    Bug("dw = for +=", "linear_backward", "dw += ", "dw[...] = "),
    Bug("db averaged", "linear_backward", "as_rows(dy).sum(axis=0)",
        "as_rows(dy).sum(axis=0) / max(len(as_rows(dy)), 1)"),
    Bug("dx reversed", "linear_backward", "dy @ w", "(dy @ w)[..., ::-1]"),
    Bug("dy not rounded", "linear_backward", "dy, x, w = operands(bf16, dy, x, w)",
        "x, w = operands(bf16, x, w)", None, ROUNDING),
    Bug("db from rounded dy", "linear_backward", "as_rows(dy).sum(axis=0)",
        "as_rows(operands(bf16, dy)[0]).sum(axis=0)", None, ROUNDING),
)  # fmt: skip

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
    planted=BUGS,
    drawn=st.builds(
        lambda rows, k, n, add: sample((rows,), k, n, add=add), SMALL, SMALL, SMALL, st.booleans()
    ),
    cuda=CUDA,
    errors=(
        Error(
            TypeError,
            "linear_forward: w must be C-contiguous",
            lambda: ops.linear.forward(ones(2, 3), ones(3, 5).T),
        ),
        Error(
            TypeError,
            "linear.forward: x is float64 and w is float32: all arrays of a call",
            lambda: ops.linear.forward(ones(2, 3), np.ones((5, 3), np.float32)),
        ),
    ),
)


class TestLinear(OpSuite):
    op = OP
