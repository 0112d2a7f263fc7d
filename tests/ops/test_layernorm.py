"""Layer normalisation: the cases, and the sums over any number of row groups."""

import numpy as np
import pytest

from byhand import backend, ops
from byhand.ops.layernorm import _groups
from tests import oracle
from tests.kernel_case import Call, Error, Op, Sample, generator, normal
from tests.ops.suite import OpSuite


def sample(
    *shape: int,
    b: bool = True,
    add: bool = False,
    frozen: str = "",
    eps: float = 1e-5,
    mean: float = 1.0,
) -> Sample:
    label = f"{'x'.join(map(str, shape))}{'' if b else '-no-b'}{'-add' if add else ''}"
    label += f"-mean {mean:g}" if mean != 1 else ""
    rng = generator("layernorm", label)
    columns = shape[-1]
    return Sample(
        label + (f"-frozen {frozen}" if frozen else ""),
        {
            "x": 3 * normal(rng, *shape) + np.float32(mean),
            "w": normal(rng, columns),
            "b": normal(rng, columns) if b else None,
            "add": normal(rng, *shape) if add else None,
        },
        {"eps": eps},
        frozen=frozenset(frozen.split()),
        # Two values normalise to +-1 whatever they are: their gradient is a difference of nothing.
        smooth=columns != 2,
    )


def shapes(s: Sample) -> dict[str, tuple[int, ...]]:
    x = s.arrays["x"].shape
    rows = int(np.prod(x[:-1]))
    work = (_groups(rows), 2, x[-1])
    return {"y": x, "mean": x[:-1], "rstd": x[:-1], "work": work}


def torch_forward(t, o):
    import torch.nn.functional as f

    return {"y": f.layer_norm(t.x, t.x.shape[-1:], t.w, t.b, o["eps"])}


def door(c: Call):
    a = c.arrays
    y, saved = ops.layernorm.forward(a["x"], a["w"], a["b"], **c.options)
    dx = ops.layernorm.backward(c.upstream["dy"], saved, c.into["dw"], c.into["db"], a["add"])
    return {"y": y, "dx": dx}


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape)


def saved_of(*shape: int):
    return ops.layernorm.forward(ones(*shape), ones(shape[-1]))[1]


OP = Op(
    name="layernorm",
    forward="layernorm_forward",
    backward="layernorm_backward",
    samples=(
        sample(2, 3, 17, add=True),
        sample(0, 3),
        sample(3, 0),
        sample(1, 2),
        sample(2, 1),
        sample(3, 15, b=False),
        sample(15, 16, frozen="dw"),
        sample(16, 31, frozen="dw db"),
        sample(17, 33, frozen="db", add=True),
        sample(31, 127),
        sample(3, 1025),
        sample(5, 1023, eps=1e-3),
        sample(127, 3, add=True),
        sample(33, 7, 15),
        sample(7, 65, mean=1e3),  # a variance from one pass has no digit left here
    ),
    big=sample(1023, 129),
    shapes=shapes,
    upstream={"y": "dy"},
    gradients={"x": "dx", "w": "dw", "b": "db"},
    plus={"dx": "add"},
    scratch=frozenset({"work"}),
    torch=torch_forward,
    door=door,
    in_place=(("layernorm_backward", "dx", "dy"), ("layernorm_backward", "dx", "add")),
    rows={
        "layernorm_forward": ("x", ("y", "mean", "rstd")),
        "layernorm_backward": ("dy", ("dx",)),
    },
    errors=(
        Error(
            ValueError,
            "layernorm.forward: w must have shape (384,), got (383,)",
            lambda: ops.layernorm.forward(ones(2, 384), ones(383)),
        ),
        Error(
            ValueError,
            "layernorm.forward: b must have shape (3,), got (4,)",
            lambda: ops.layernorm.forward(ones(2, 3), ones(3), ones(4)),
        ),
        Error(
            ValueError,
            "layernorm.forward: w must have shape of x's last axis, got ()",
            lambda: ops.layernorm.forward(ones(), ones()),
        ),
        Error(
            ValueError,
            "layernorm.backward: dy must have shape (2, 3), got (3, 2)",
            lambda: ops.layernorm.backward(ones(3, 2), saved_of(2, 3)),
        ),
        Error(
            ValueError,
            "layernorm.backward: add must have shape (2, 3), got (3,)",
            lambda: ops.layernorm.backward(ones(2, 3), saved_of(2, 3), add=ones(3)),
        ),
        Error(
            ValueError,
            "layernorm.backward: dw must have shape (3,), got (1, 3)",
            lambda: ops.layernorm.backward(ones(2, 3), saved_of(2, 3), ones(1, 3)),
        ),
        Error(
            ValueError,
            "layernorm.backward: db must have shape (3,), got (2,)",
            lambda: ops.layernorm.backward(ones(2, 3), saved_of(2, 3), None, ones(2)),
        ),
        Error(
            TypeError,
            "expected a numpy or cupy array, got list",
            lambda: ops.layernorm.forward([[1.0, 2.0]], ones(2)),
        ),
        Error(
            TypeError,
            "(fast kernels) or float64 (check mode), got int64",
            lambda: ops.layernorm.forward(np.ones((2, 3), np.int64), ones(3)),
        ),
        Error(
            TypeError,
            "layernorm_forward: w must be float64",
            lambda: ops.layernorm.forward(ones(2, 3), np.ones(3, np.float32)),
        ),
        Error(
            TypeError,
            "layernorm_forward: x must be C-contiguous",
            lambda: ops.layernorm.forward(ones(3, 2).T, ones(3)),
        ),
    ),
)


class TestLayerNorm(OpSuite):
    op = OP

    @pytest.mark.parametrize("groups", [1, 2, 7, 40])
    def test_any_number_of_groups(self, native: str, groups: int) -> None:
        """work may have more groups than there are rows; the result is the same sum."""
        case = sample(17, 33)
        kernels = backend.cpu_modules()[native]
        for stage in oracle.stages(OP, case, backend.reference):
            stage.shapes["work"] = (groups, 2, 33)
            got = oracle.run(kernels, stage.kernel, stage.env, stage.shapes, np.float32)
            exact = oracle.run(backend.reference, stage.kernel, stage.env, stage.shapes, np.float64)
            for name in exact.keys() - {"work"}:
                np.testing.assert_allclose(got[name], exact[name], rtol=0, atol=1e-4)
