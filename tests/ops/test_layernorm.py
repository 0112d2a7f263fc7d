"""Layer normalisation: the cases."""

from collections.abc import Iterator
from functools import partial

from tests.cuda.rules import Rule
from tests.kernel_case import FORWARD, NUMERIC, Bug, Sample
from tests.ops import norms
from tests.ops.norms import NormTests
from tests.ops.sizes import WIDTHS, rows_of
from tests.ops.suite import OpSuite

sample = partial(norms.sample, "layernorm")
wide_sample = partial(norms.wide_sample, "layernorm")


def torch_norm(s, t, eps):
    import torch

    return torch.nn.functional.layer_norm(s, s.shape[-1:], t.w, t.b, eps)


def wide() -> Iterator[Sample]:
    for i, columns in enumerate(WIDTHS):
        yield wide_sample(rows_of(columns), columns, fused=i % 2 == 0)
    yield wide_sample(3000, 40, fused=True)
    yield wide_sample(1, 58368, fused=True)  # too long for shared memory
    yield wide_sample(1, 58369, fused=False)


BUGS = (
    Bug("eps outside", "layernorm_forward", "mean_last(centred * centred) + eps)",
        "mean_last(centred * centred)) + eps * 0"),
    Bug("C - 1", "layernorm_forward", "mean_last(centred * centred)",
        "mean_last(centred * centred) * x.shape[-1] / max(x.shape[-1] - 1, 1)"),
    Bug("bias forgotten", "layernorm_forward", "normal + b", "normal"),
    Bug("one pass", "layernorm_forward", "mean_last(centred * centred)",
        "mean_last(x * x) - mu * mu", None, NUMERIC),
    Bug("half precision", "layernorm_forward", "centred * scale",
        "(centred * scale).astype(np.float16).astype(x.dtype)", None, FORWARD),
    Bug("residual forgotten", "layernorm_forward", "s[...] = x + add", "s[...] = x", "sum_of"),
    Bug("norm of x alone", "layernorm_forward", "return s\n", "return x\n", "sum_of"),
    Bug("mean term dropped", "layernorm_backward", "mean_last(g) + ", ""),
    Bug("projection dropped", "layernorm_backward", " + shat * mean_last(g * shat)", ""),
    Bug("weight forgotten", "layernorm_backward", "g = dy * w", "g = dy"),
    Bug("dw without shat", "layernorm_backward", "(dy * shat).sum", "dy.sum"),
    Bug("dw = for +=", "layernorm_backward", "dw += ", "dw[...] = "),
    Bug("db = for +=", "layernorm_backward", "db += ", "db[...] = "),
    Bug("db twice", "layernorm_backward", "db += ", "db += 2 * "),
    Bug("ds ignored", "layernorm_backward", "(g - through) + ds", "(g - through)"),
)  # fmt: skip

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
        sample(7, 65, mean=1e3),  # a variance computed in one pass has no correct digit here
    ),
    torch_norm=torch_norm,
    wide=wide,
    instructions=(Rule("norm_forward_rows<.*true>$", loads=4),),  # x w b add
    planted=BUGS,
)


class TestLayerNorm(NormTests, OpSuite):
    op = OP
