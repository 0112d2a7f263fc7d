"""Root mean square normalisation: the cases."""

from collections.abc import Iterator
from functools import partial

from tests.cuda.rules import Rule
from tests.kernel_case import FORWARD, Bug, Sample
from tests.ops import norms
from tests.ops.norms import NormTests
from tests.ops.sizes import WIDTHS, rows_of
from tests.ops.suite import OpSuite

sample = partial(norms.sample, "rmsnorm", centred=False)
wide_sample = partial(norms.wide_sample, "rmsnorm", centred=False)


def torch_norm(s, t, eps):
    import torch

    return torch.nn.functional.rms_norm(s, s.shape[-1:], t.w, eps)


def wide() -> Iterator[Sample]:
    for i, columns in enumerate(WIDTHS):
        yield wide_sample(rows_of(columns), columns, fused=i % 2 == 1)
    yield wide_sample(3000, 42, fused=False)


BUGS = (
    Bug("centred", "rmsnorm_forward", "mean_last(x * x) + eps", "x.var(-1, keepdims=True) + eps",
        None, FORWARD),
    Bug("eps outside", "rmsnorm_forward", "np.sqrt(mean_last(x * x) + eps)",
        "(np.sqrt(mean_last(x * x)) + eps)"),
    Bug("sum for mean", "rmsnorm_forward", "mean_last(x * x)", "(x * x).sum(-1, keepdims=True)"),
    Bug("norm of x alone", "rmsnorm_forward", "return s\n", "return x\n", "sum_of"),
    Bug("projection dropped", "rmsnorm_backward", "through = shat * ", "through = 0 * "),
    Bug("weight forgotten", "rmsnorm_backward", "g = dy * w", "g = dy"),
    Bug("dw without shat", "rmsnorm_backward", "(dy * shat).sum", "dy.sum"),
    Bug("dw = for +=", "rmsnorm_backward", "dw += ", "dw[...] = "),
    Bug("ds ignored", "rmsnorm_backward", "(g - through) + ds", "(g - through)"),
)  # fmt: skip

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
    wide=wide,
    instructions=(Rule("norm_forward_rows<.*false>$", loads=3),),  # x w add
    planted=BUGS,
    centred=False,
)


class TestRMSNorm(NormTests, OpSuite):
    op = OP
    centred = False
