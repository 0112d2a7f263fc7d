"""Root mean square normalisation: the cases."""

from functools import partial

from tests.ops import norms
from tests.ops.norms import NormTests
from tests.ops.suite import OpSuite

sample = partial(norms.sample, "rmsnorm")


def torch_norm(s, t, eps):
    import torch

    return torch.nn.functional.rms_norm(s, s.shape[-1:], t.w, eps)


OP = norms.norm(
    "rmsnorm",
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
    torch_norm=torch_norm,
)


class TestRMSNorm(NormTests, OpSuite):
    op = OP
