"""Layer normalisation: the cases."""

from functools import partial

from tests.ops import norms
from tests.ops.norms import NormTests
from tests.ops.suite import OpSuite

sample = partial(norms.sample, "layernorm")


def torch_norm(s, t, eps):
    import torch

    return torch.nn.functional.layer_norm(s, s.shape[-1:], t.w, t.b, eps)


OP = norms.norm(
    "layernorm",
    samples=(
        sample(2, 3, 17, add=True),
        sample(0, 3),
        sample(3, 0),
        sample(1, 2),
        sample(2, 1),
        sample(3, 15, b=False),
        sample(15, 16, frozen="dw"),
        sample(16, 31, frozen="dw db"),
        sample(17, 33, frozen="db", ds=True),
        sample(31, 127),
        sample(3, 1025, add=True),
        sample(5, 1023, eps=1e-3),
        sample(127, 3, ds=True),
        sample(33, 7, 15),
        sample(7, 65, mean=1e3),  # a variance from one pass has no digit left here
    ),
    torch_norm=torch_norm,
)


class TestLayerNorm(NormTests, OpSuite):
    op = OP
