"""Root mean square normalisation: the cases."""

from functools import partial

from byhand import ops
from tests.kernel_case import Op
from tests.ops import norms
from tests.ops.norms import NormTests
from tests.ops.suite import OpSuite

sample = partial(norms.sample, "rmsnorm")


def torch_forward(t, o):
    import torch.nn.functional as f

    s = t.x if t.add is None else t.x + t.add
    found = {"y": f.rms_norm(s, s.shape[-1:], t.w, o["eps"])}
    return found if t.add is None else {**found, "s": s}


OP = Op(
    name="rmsnorm",
    forward="rmsnorm_forward",
    backward="rmsnorm_backward",
    samples=(
        sample(2, 3, 17, add=True),
        sample(0, 3),
        sample(3, 0),
        sample(1, 2),
        sample(2, 1),
        sample(3, 15, ds=True),
        sample(15, 16, frozen="dw"),
        sample(17, 33),
        sample(16, 31, frozen="dw", add=True),
        sample(31, 127),
        sample(3, 1025, add=True),
        sample(5, 1023, eps=0.3),
        sample(127, 3, ds=True),
        sample(33, 7, 15),
        sample(7, 65, mean=1e3),
    ),
    big=sample(1023, 129, add=True),
    shapes=lambda s: norms.shapes(s, (), "rstd"),
    upstream={"y": "dy", "s": "ds"},
    gradients={"x": "dx", "w": "dw", "add": "dx"},
    plus={"dx": "ds"},
    stands_for={"x": "s"},
    scratch=frozenset({"work"}),
    torch=torch_forward,
    door=partial(norms.door, ops.rmsnorm),
    in_place=(
        ("rmsnorm_forward", "s", "x"),
        ("rmsnorm_forward", "s", "add"),
        ("rmsnorm_backward", "dx", "dy"),
        ("rmsnorm_backward", "dx", "ds"),
    ),
    rows={
        "rmsnorm_forward": ("x", ("y", "s", "rstd")),
        "rmsnorm_backward": ("dy", ("dx",)),
    },
    errors=norms.errors("rmsnorm"),
)


class TestRMSNorm(NormTests, OpSuite):
    op = OP
