"""Adagrad: single steps, and a thousand of them against PyTorch."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from byhand import ops
from tests.cuda.rules import Rule
from tests.kernel_case import FORWARD, Bug, Call, Cuda, Error, Op, Sample, generator, normal
from tests.ops.steps import group_arrays, in_groups, results_of, step_bugs, step_errors
from tests.ops.suite import OpSuite

RATES = ("lr", "weight_decay")


def sample(
    n: int,
    *ends: int,
    lr_decay: float = 0.0,
    max_norm: float = 1.0,
    size: float = 1.0,
    copy: bool = False,
    **groups: Any,
) -> Sample:
    label = f"{n}-{'-'.join(map(str, ends[:9]))}-{lr_decay:g}-{size:g}-{groups.get('norm')}-{copy}"
    rng = generator("adagrad", label)
    arrays = group_arrays(rng, n, *ends, **groups)
    arrays |= {
        "w": np.float32(size) * normal(rng, n),
        "v": np.square(np.float32(size) * normal(rng, n)),
        "g": np.float32(size) * normal(rng, n),
    }
    options = {"lr_decay": lr_decay, "eps": 1e-10, "max_norm": max_norm}
    return Sample(label, arrays, options if copy else {**options, "copy": None})


def torch_forward(t, o):
    """PyTorch's optimiser, with the state that it has after t steps."""
    import torch

    def step(part: slice, i: int, scale: float) -> dict[str, Any]:
        parameter = torch.nn.Parameter(t.w[part].clone())
        settings = {name: o[name] for name in ("lr_decay", "eps")}
        rates = {"lr": float(t.lr[i]), "weight_decay": float(t.weight_decay[i])}
        adagrad = torch.optim.Adagrad([parameter], **rates, **settings)
        parameter.grad = t.g[part] * scale
        adagrad.state[parameter] = {"step": t.t.double(), "sum": t.v[part].clone()}
        adagrad.step()
        return {"w": parameter.detach(), "v": adagrad.state[parameter]["sum"]}

    return in_groups(t, o, "wv", step)


def public(c: Call):
    settings = {name: c.options[name] for name in ("lr_decay", "eps")}
    return results_of(c, ops.adagrad.step, ("v",), RATES, **settings)


def step_with(**changed):
    arrays = {n: changed.pop(n, np.ones(3)) for n in "wvg"}
    options = {
        "lr": np.full(2, 1e-3),
        "weight_decay": np.zeros(2),
        "bounds": np.array([2, 3]),
        "t": np.zeros((), np.int64),
        "lr_decay": 0.0,
        "eps": 1e-8,
    }
    return ops.adagrad.step(*arrays.values(), **{**options, **changed})


def wide() -> Iterator[Sample]:
    for size in (1020, 20_003):
        yield sample(size, *range(1, size, 23), t=7, lr_decay=0.1, copy=size % 2 == 0)
    for size in (1023, (1 << 16) + 3, 1 << 20):
        yield sample(size, size // 3, norm=3.0, copy=size % 2 == 1)


BUGS = (
    *step_bugs("adagrad_step"),
    Bug("one rate for all", "adagrad_step", "lr[group]", "lr[0]", None, FORWARD),
    Bug("no penalty", "adagrad_step", "g + weight_decay[group] * w", "g", None, FORWARD),
    Bug("g not squared", "adagrad_step", "g * g", "abs(g)", None, FORWARD),
    Bug("eps inside", "adagrad_step", "np.sqrt(v) + eps", "np.sqrt(v + eps)", None, FORWARD),
    Bug("counted from 0", "adagrad_step", "int(t) - 1", "int(t)", None, FORWARD),
    Bug("no decay of the rate", "adagrad_step", "(int(t) - 1) * lr_decay", "0", None, FORWARD),
    Bug("not counted", "adagrad_step", "t += 1", "t = t + 1", None, FORWARD),
)  # fmt: skip

OP = Op(
    name="adagrad",
    forward="adagrad_step",
    samples=(
        sample(17, 3, 3, 9, 16, norm=3.0, t=4, lr_decay=0.3, copy=True),
        sample(0),
        sample(0, 0, norm=1.0, copy=True),
        sample(1, 1),
        sample(2, 0, t=1, lr_decay=0.5),
        sample(3, 3, norm=0.5),
        sample(15, 0, 1, 2, 3, 5, 8, 13, 15, t=6),
        sample(33, 16, norm=0.0, copy=True),
        sample(127, 31, 32, 63, 64, 65, t=999, norm=1e4, max_norm=0.1, lr_decay=1e-2),
        sample(1023, 1000),
        sample(1025, 17, 513, 1024, t=99_999, lr=1.0, lr_decay=1e-4),
        sample(37, 18, t=3, norm=np.nan, copy=True),
        sample(35, 30, t=3, norm=np.inf),
        sample(31, 15, size=1e-10),  # so small that eps matters
    ),
    big=sample(300_001, 100_003, 100_003, 200_002, t=1, norm=3.0, lr_decay=0.1, copy=True),
    shapes=lambda s: {"copy": s.arrays["w"].shape, "work": (s.arrays["lr"].size, 3)},
    scratch=frozenset({"work"}),
    torch=torch_forward,
    public=public,
    planted=BUGS,
    cuda=Cuda(
        wide=wide,
        instructions=(Rule("adagrad_update", loads=3, stores=2),),  # w v g, w v
        either=("g", "copy"),
    ),
    errors=(
        *step_errors("adagrad", step_with),
        Error(
            ValueError,
            "adagrad.step: lr_decay must be a number of at least 0, got -0.5",
            lambda: step_with(lr_decay=-0.5),
        ),
        Error(
            ValueError,
            "adagrad.step: eps must be a number of at least 0, got -1.0",
            lambda: step_with(eps=-1.0),
        ),
    ),
)


class TestAdagrad(OpSuite):
    op = OP
    test_finite_differences = None  # it has no gradient


@pytest.mark.parametrize("lr_decay", [0.0, 0.01])
def test_a_thousand_steps_are_those_of_pytorch(lr_decay: float) -> None:
    torch = pytest.importorskip("torch")
    rng = generator("adagrad", "a thousand steps")
    w, target = rng.standard_normal((2, 7))
    v, t = np.full(7, 0.1), np.zeros((), np.int64)
    theirs = torch.nn.Parameter(torch.from_numpy(w.copy()))
    optimiser = torch.optim.Adagrad(
        [theirs], lr=1e-2, lr_decay=lr_decay, weight_decay=0.1, initial_accumulator_value=0.1
    )
    settings = {"lr": np.full(1, 1e-2), "weight_decay": np.full(1, 0.1), "bounds": np.array([7])}
    for _ in range(1000):
        g = w - target + 0.1 * rng.standard_normal(7)
        theirs.grad = torch.from_numpy(g.copy())
        torch.nn.utils.clip_grad_norm_([theirs], 0.5)
        optimiser.step()
        norm = ops.grad_norm.norm(g)
        ops.adagrad.step(
            w, v, g, t=t, lr_decay=lr_decay, eps=1e-10, norm=norm, max_norm=0.5, **settings
        )
    assert t == 1000
    np.testing.assert_allclose(w, theirs.detach().numpy(), rtol=1e-9)
