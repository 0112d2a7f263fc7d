"""SGD: single steps, and a thousand of them against PyTorch."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from byhand import ops
from tests.cuda.rules import Rule
from tests.kernel_case import FORWARD, Bug, Call, Cuda, Error, Op, Sample, generator, normal
from tests.ops.steps import group_arrays, in_groups, results_of, step_bugs, step_errors
from tests.ops.suite import OpSuite

RATES = ("lr", "weight_decay", "l1", "l2")


def sample(
    n: int,
    *ends: int,
    momentum: float = 0.0,
    nesterov: bool = False,
    l1: float = 0.0,
    l2: float = 0.0,
    max_norm: float = 1.0,
    copy: bool = False,
    **groups: Any,
) -> Sample:
    label = f"{n}-{'-'.join(map(str, ends[:9]))}-momentum {momentum:g}-{nesterov}-{l1:g}-{l2:g}"
    label += f"-{groups.get('norm')}-{copy}"
    rng = generator("sgd", label)
    arrays = group_arrays(rng, n, *ends, **groups)
    count = len(ends) + 1
    arrays |= {
        "w": normal(rng, n),
        "m": normal(rng, n) if momentum else None,
        "g": normal(rng, n),
        "l1": np.float32(l1) * np.arange(count, dtype=np.float32)[::-1],
        "l2": np.float32(l2) * np.arange(count, dtype=np.float32),
    }
    options = {"momentum": momentum, "nesterov": nesterov, "max_norm": max_norm}
    return Sample(label, arrays, options if copy else {**options, "copy": None})


def torch_forward(t, o):
    """PyTorch's optimiser with the buffer that it has after t steps; the proximal operator by
    PyTorch's soft threshold.
    """
    import torch

    def step(part: slice, i: int, scale: float) -> dict[str, Any]:
        parameter = torch.nn.Parameter(t.w[part].clone())
        settings = {"momentum": o["momentum"], "nesterov": o["nesterov"]}
        lr, decay = float(t.lr[i]), float(t.weight_decay[i])
        sgd = torch.optim.SGD([parameter], lr=lr, weight_decay=decay, **settings)
        parameter.grad = t.g[part] * scale
        if t.m is not None:
            sgd.state[parameter] = {"momentum_buffer": t.m[part].clone()}
        sgd.step()
        soft = torch.nn.functional.softshrink(parameter.detach(), lr * float(t.l1[i]))
        found = {"w": soft / (1 + lr * float(t.l2[i]))}
        if t.m is not None:
            found["m"] = sgd.state[parameter]["momentum_buffer"]
        return found

    return in_groups(t, o, "wm", step)


def public(c: Call):
    settings = {name: c.options[name] for name in ("momentum", "nesterov")}
    return results_of(c, ops.sgd.step, ("m",), RATES, **settings)


def step_with(**changed):
    arrays = {n: changed.pop(n, np.ones(3)) for n in "wmg"}
    options = {
        "lr": np.full(2, 1e-3),
        "weight_decay": np.zeros(2),
        "l1": np.zeros(2),
        "l2": np.zeros(2),
        "bounds": np.array([2, 3]),
        "t": np.zeros((), np.int64),
    }
    return ops.sgd.step(*arrays.values(), **{**options, **changed})


def wide() -> Iterator[Sample]:
    for size in (1020, 20_003):
        yield sample(size, *range(1, size, 23), momentum=0.9, copy=size % 2 == 0, l1=0.01)
    for size in (1023, (1 << 16) + 3, 1 << 20):
        yield sample(size, size // 3, norm=3.0, momentum=0.9 * (size % 2), copy=size % 2 == 1)


BUGS = (
    *step_bugs("sgd_step"),
    Bug("one rate for all", "sgd_step", "rate = lr[group]", "rate = lr[0]", None, FORWARD),
    Bug("no penalty", "sgd_step", "g + weight_decay[group] * w", "g", None, FORWARD),
    Bug("dampened", "sgd_step", "momentum * m + g", "momentum * m + (1 - momentum) * g", None,
        FORWARD),
    Bug("never nesterov", "sgd_step", "if nesterov else", "if False else", None, FORWARD),
    Bug("always nesterov", "sgd_step", "if nesterov else", "if True else", None, FORWARD),
    Bug("threshold without the rate", "sgd_step", "rate * l1[group]", "l1[group]", None, FORWARD),
    Bug("soft threshold before the step", "sgd_step", "    w -= rate * g\n    threshold",
        "    w, w_ = w - np.clip(w, -rate * l1[group], rate * l1[group]), w\n"
        "    w_[...] = w - rate * g\n    w, l1 = w_, 0 * l1\n    threshold", None, FORWARD),
    Bug("hard threshold", "sgd_step", "(w - np.clip(w, -threshold, threshold))",
        "np.where(abs(w) > threshold, w, 0)", None, FORWARD),
    Bug("l2 twice", "sgd_step", "1 + rate * l2[group]", "1 + 2 * rate * l2[group]", None, FORWARD),
    Bug("not counted", "sgd_step", "t += 1", "pass", None, FORWARD),
)  # fmt: skip

OP = Op(
    name="sgd",
    forward="sgd_step",
    samples=(
        sample(17, 3, 3, 9, 16, norm=3.0, momentum=0.9, nesterov=True, l1=0.3, l2=2.0, copy=True),
        sample(0),
        sample(0, 0, norm=1.0, copy=True),
        sample(1, 1, momentum=0.5),
        sample(2, 0, t=1),
        sample(3, 3, norm=0.5),
        sample(15, 0, 1, 2, 3, 5, 8, 13, 15, t=6, l1=1.0),
        sample(33, 16, norm=0.0, momentum=0.9, copy=True),
        sample(127, 31, 32, 63, 64, 65, t=999, norm=1e4, max_norm=0.1, l2=3.0),
        sample(1023, 1000, momentum=0.99, l1=0.2),
        sample(1025, 17, 513, 1024, lr=1e-4, momentum=0.9, nesterov=True),
        sample(37, 18, t=3, norm=np.nan, copy=True),
        sample(35, 30, t=3, norm=np.inf, momentum=0.9, l1=1.0),
    ),
    big=sample(300_001, 100_003, 100_003, 200_002, norm=3.0, momentum=0.9, l1=0.1, copy=True),
    shapes=lambda s: {"copy": s.arrays["w"].shape, "work": (s.arrays["lr"].size, 5)},
    scratch=frozenset({"work"}),
    torch=torch_forward,
    public=public,
    planted=BUGS,
    cuda=Cuda(
        wide=wide,
        instructions=(Rule("sgd_update", loads=3, stores=2),),  # w m g, w m
        either=("g", "copy"),
    ),
    errors=(
        *step_errors("sgd", step_with, RATES),
        Error(
            ValueError,
            "sgd.step: momentum must be a number of at least 0, got -0.5",
            lambda: step_with(momentum=-0.5),
        ),
        Error(
            ValueError,
            "sgd.step: momentum and nesterov need m, got None",
            lambda: step_with(m=None, momentum=0.9),
        ),
        Error(
            ValueError,
            "sgd.step: momentum and nesterov need m, got None",
            lambda: step_with(m=None, nesterov=True),
        ),
    ),
)


class TestSGD(OpSuite):
    op = OP
    test_finite_differences = None  # it has no gradient


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_a_thousand_steps_are_those_of_pytorch(momentum: float, nesterov: bool) -> None:
    torch = pytest.importorskip("torch")
    rng = generator("sgd", "a thousand steps")
    w, target = rng.standard_normal((2, 7))
    m, t = np.zeros(7) if momentum else None, np.zeros((), np.int64)
    theirs = torch.nn.Parameter(torch.from_numpy(w.copy()))
    how = {"momentum": momentum, "nesterov": nesterov}
    optimiser = torch.optim.SGD([theirs], lr=1e-2, weight_decay=0.1, **how)
    settings = {"lr": np.full(1, 1e-2), "weight_decay": np.full(1, 0.1), "bounds": np.array([7])}
    settings |= {"l1": np.zeros(1), "l2": np.zeros(1)}
    for _ in range(1000):
        g = w - target + 0.1 * rng.standard_normal(7)
        theirs.grad = torch.from_numpy(g.copy())
        torch.nn.utils.clip_grad_norm_([theirs], 0.5)
        optimiser.step()
        norm = ops.grad_norm.norm(g)
        ops.sgd.step(w, m, g, t=t, norm=norm, max_norm=0.5, **how, **settings)
    assert t == 1000
    np.testing.assert_allclose(w, theirs.detach().numpy(), rtol=1e-9)


def test_the_fixed_point_is_the_minimum_of_the_lasso() -> None:
    """Of |w - a|^2 / 2 + l1 |w|_1 + l2/2 |w|^2: w = soft(a, l1) / (1 + l2), with exact zeros."""
    a = np.array([3.0, -2.0, 0.4, -0.3, 0.0])
    w, t = np.zeros(5), np.zeros((), np.int64)
    settings = {"lr": np.full(1, 0.2), "weight_decay": np.zeros(1), "bounds": np.array([5])}
    for _ in range(300):
        ops.sgd.step(w, None, w - a, t=t, l1=np.full(1, 0.5), l2=np.full(1, 0.25), **settings)
    np.testing.assert_allclose(w, np.array([2.5, -1.5, 0, 0, 0]) / 1.25, rtol=1e-12)
    assert (w[2:] == 0).all()
