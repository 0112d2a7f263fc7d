"""RMSprop: single steps, and a thousand of them against PyTorch."""

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
    momentum: float = 0.0,
    centered: bool = False,
    max_norm: float = 1.0,
    size: float = 1.0,
    copy: bool = False,
    **groups: Any,
) -> Sample:
    label = f"{n}-{'-'.join(map(str, ends[:9]))}-momentum {momentum:g}-{centered}-{size:g}"
    label += f"-{groups.get('norm')}-{copy}"
    rng = generator("rmsprop", label)
    arrays = group_arrays(rng, n, *ends, **groups)
    mean = np.float32(0.1 * size) * normal(rng, n)
    arrays |= {
        "w": np.float32(size) * normal(rng, n),
        "v": np.square(mean) + np.float32(0.1) * np.square(np.float32(size) * normal(rng, n)),
        "mean": mean if centered else None,
        "m": normal(rng, n) if momentum else None,
        "g": np.float32(size) * normal(rng, n),
    }
    options = {"alpha": 0.93, "eps": 1e-8, "momentum": momentum, "max_norm": max_norm}
    return Sample(label, arrays, options if copy else {**options, "copy": None})


def torch_forward(t, o):
    """PyTorch's optimiser, with the state that it has after t steps."""
    import torch

    def step(part: slice, i: int, scale: float) -> dict[str, Any]:
        parameter = torch.nn.Parameter(t.w[part].clone())
        settings = {name: o[name] for name in ("alpha", "eps", "momentum")}
        rates = {"lr": float(t.lr[i]), "weight_decay": float(t.weight_decay[i])}
        centered = t.mean is not None
        rmsprop = torch.optim.RMSprop([parameter], **rates, **settings, centered=centered)
        parameter.grad = t.g[part] * scale
        state = {"step": t.t.double(), "square_avg": t.v[part].clone()}
        if t.mean is not None:
            state["grad_avg"] = t.mean[part].clone()
        if t.m is not None:
            state["momentum_buffer"] = t.m[part].clone()
        rmsprop.state[parameter] = state
        rmsprop.step()
        after = rmsprop.state[parameter]
        return {
            "w": parameter.detach(),
            "v": after["square_avg"],
            "mean": after.get("grad_avg"),
            "m": after.get("momentum_buffer"),
        }

    return in_groups(t, o, ("w", "v", "mean", "m"), step)


def public(c: Call):
    settings = {name: c.options[name] for name in ("alpha", "eps", "momentum")}
    return results_of(c, ops.rmsprop.step, ("v", "mean", "m"), RATES, **settings)


def step_with(**changed):
    arrays = {n: changed.pop(n, np.ones(3)) for n in ("w", "v", "mean", "m", "g")}
    options = {
        "lr": np.full(2, 1e-3),
        "weight_decay": np.zeros(2),
        "bounds": np.array([2, 3]),
        "t": np.zeros((), np.int64),
        "alpha": 0.9,
        "eps": 1e-8,
    }
    return ops.rmsprop.step(*arrays.values(), **{**options, **changed})


def wide() -> Iterator[Sample]:
    for size in (1020, 20_003):
        yield sample(size, *range(1, size, 23), momentum=0.9, centered=True, copy=size % 2 == 0)
    for size in (1023, (1 << 16) + 3, 1 << 20):
        yield sample(size, size // 3, norm=3.0, centered=size % 2 == 1, copy=size % 2 == 1)


BUGS = (
    *step_bugs("rmsprop_step"),
    Bug("one rate for all", "rmsprop_step", "lr[group]", "lr[0]", None, FORWARD),
    Bug("no penalty", "rmsprop_step", "g + weight_decay[group] * w", "g", None, FORWARD),
    Bug("g not squared", "rmsprop_step", "* g * g", "* abs(g)", None, FORWARD),
    Bug("eps inside", "rmsprop_step", "np.sqrt(v - square) + eps", "np.sqrt(v - square + eps)",
        None, FORWARD),
    Bug("never centered", "rmsprop_step", "np.minimum(mean * mean, v)", "0 * v", None, FORWARD),
    Bug("the mean itself", "rmsprop_step", "np.minimum(mean * mean, v)", "np.minimum(abs(mean), v)",
        None, FORWARD),
    Bug("mean of the gradient added", "rmsprop_step", "alpha * mean + (1 - alpha) * g",
        "alpha * mean + g", None, FORWARD),
    Bug("momentum of the gradient", "rmsprop_step", "momentum * m + move", "momentum * m + g", None,
        FORWARD),
    Bug("momentum unused", "rmsprop_step", "move = m", "pass", None, FORWARD),
    Bug("not counted", "rmsprop_step", "t += 1", "pass", None, FORWARD),
)  # fmt: skip

OP = Op(
    name="rmsprop",
    forward="rmsprop_step",
    samples=(
        sample(17, 3, 3, 9, 16, norm=3.0, momentum=0.9, centered=True, copy=True),
        sample(0),
        sample(0, 0, norm=1.0, copy=True),
        sample(1, 1, momentum=0.5),
        sample(2, 0, t=1, centered=True),
        sample(3, 3, norm=0.5),
        sample(15, 0, 1, 2, 3, 5, 8, 13, 15, t=6),
        sample(33, 16, norm=0.0, momentum=0.9, copy=True),
        sample(127, 31, 32, 63, 64, 65, t=999, norm=1e4, max_norm=0.1, centered=True),
        sample(1023, 1000, momentum=0.99),
        sample(1025, 17, 513, 1024, lr=1e-4, momentum=0.9, centered=True),
        sample(37, 18, t=3, norm=np.nan, copy=True),
        sample(35, 30, t=3, norm=np.inf, momentum=0.9, centered=True),
        sample(31, 15, size=1e-8),  # so small that eps matters
    ),
    big=sample(300_001, 100_003, 100_003, 200_002, norm=3.0, momentum=0.9, copy=True),
    shapes=lambda s: {"copy": s.arrays["w"].shape, "work": (s.arrays["lr"].size, 3)},
    scratch=frozenset({"work"}),
    torch=torch_forward,
    public=public,
    planted=BUGS,
    cuda=Cuda(
        wide=wide,
        instructions=(Rule("rmsprop_update", loads=5, stores=4),),  # w v mean m g, w v mean m
        either=("g", "copy"),
    ),
    errors=(
        *step_errors("rmsprop", step_with),
        Error(
            ValueError,
            "rmsprop.step: alpha must be at least 0 and less than 1, got 1.0",
            lambda: step_with(alpha=1.0),
        ),
        Error(
            ValueError,
            "rmsprop.step: eps must be a number of at least 0, got -1.0",
            lambda: step_with(eps=-1.0),
        ),
        Error(
            ValueError,
            "rmsprop.step: momentum must be a number of at least 0, got -0.5",
            lambda: step_with(momentum=-0.5),
        ),
        Error(
            ValueError,
            "rmsprop.step: momentum needs m, got None",
            lambda: step_with(m=None, momentum=0.9),
        ),
    ),
)


class TestRMSprop(OpSuite):
    op = OP
    test_finite_differences = None  # it has no gradient


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_thousand_steps_are_those_of_pytorch(momentum: float, centered: bool) -> None:
    torch = pytest.importorskip("torch")
    rng = generator("rmsprop", "a thousand steps")
    w, target = rng.standard_normal((2, 7))
    v, t = np.zeros(7), np.zeros((), np.int64)
    mean, m = np.zeros(7) if centered else None, np.zeros(7) if momentum else None
    theirs = torch.nn.Parameter(torch.from_numpy(w.copy()))
    how = {"alpha": 0.9, "eps": 1e-3, "momentum": momentum}
    optimiser = torch.optim.RMSprop([theirs], lr=1e-3, weight_decay=0.1, centered=centered, **how)
    settings = {"lr": np.full(1, 1e-3), "weight_decay": np.full(1, 0.1), "bounds": np.array([7])}
    for _ in range(1000):
        g = w - target + 0.1 * rng.standard_normal(7)
        theirs.grad = torch.from_numpy(g.copy())
        torch.nn.utils.clip_grad_norm_([theirs], 0.5)
        optimiser.step()
        norm = ops.grad_norm.norm(g)
        ops.rmsprop.step(w, v, mean, m, g, t=t, norm=norm, max_norm=0.5, **how, **settings)
    assert t == 1000
    np.testing.assert_allclose(w, theirs.detach().numpy(), rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_constant_gradient_has_no_negative_variance(dtype: Any) -> None:
    """v and mean^2 become equal but for rounding; the root of the difference must not be NaN."""
    w, v, mean, g = np.ones(50, dtype), np.zeros(50, dtype), np.zeros(50, dtype), np.ones(50, dtype)
    g *= np.linspace(0.1, 3, 50, dtype=dtype)
    settings = {"lr": np.full(1, 1e-9, dtype), "weight_decay": np.zeros(1, dtype)}
    for _ in range(200):
        ops.rmsprop.step(
            w, v, mean, None, g, t=np.zeros((), np.int64), bounds=np.array([50]), alpha=0.5,
            eps=1e-8, **settings,
        )  # fmt: skip
    assert np.isfinite(w).all()
