"""AdamW: single steps, and a thousand of them against PyTorch."""

from collections.abc import Iterator

import numpy as np
import pytest

from byhand import ops
from tests.cuda.rules import Rule
from tests.kernel_case import FORWARD, Bug, Call, Cuda, Error, Op, Sample, generator, normal
from tests.ops.steps import results_of, step_bugs, step_errors
from tests.ops.suite import OpSuite

RATES = ("lr", "weight_decay")


def sample(
    n: int,
    *ends: int,
    t: int = 0,
    norm: float | None = None,
    max_norm: float = 1.0,
    lr: float = 1e-2,
    size: float = 1.0,
    copy: bool = False,
    coupled: bool = False,
) -> Sample:
    """Groups that end at `ends` and at n, each with its own rate and decay; `t` steps were done."""
    where = "-".join(map(str, ends)) if len(ends) < 9 else f"{len(ends) + 1} groups"
    label = f"{n}-t {t}-{where}"
    label += "" if norm is None else f"-norm {norm:g}"
    label += f"-size {size:g}" if size != 1 else ""
    label += "-copy" if copy else ""
    label += "-coupled" if coupled else ""
    rng = generator("adamw", label)
    groups = len(ends) + 1
    return Sample(
        label,
        {
            "w": normal(rng, n),
            "m": np.float32(0.1 * size) * normal(rng, n),
            "v": np.float32(0.1) * np.square(np.float32(size) * normal(rng, n)),
            "t": np.asarray(t),
            "g": np.float32(size) * normal(rng, n),
            "norm": None if norm is None else np.asarray(norm, np.float32),
            "lr": np.float32(lr) * (0.5 + rng.random(groups)).astype(np.float32),
            "weight_decay": 0.3 * np.arange(groups, dtype=np.float32),
            "bounds": np.array([*ends, n]),
        },
        {
            "beta1": 0.85,
            "beta2": 0.97,
            "eps": 1e-8,
            "max_norm": max_norm,
            "coupled": coupled,
            **({} if copy else {"copy": None}),
        },
    )


def torch_forward(t, o):
    """PyTorch's optimiser, with the state that it has after t steps."""
    import torch

    if t.norm is not None and not t.norm.isfinite():  # PyTorch's moments would become NaN
        same = {name: getattr(t, name) for name in "wmvt"}
        return same if "copy" in o else {**same, "copy": t.w}
    starts = [0, *t.bounds.tolist()[:-1]]
    parts = [slice(a, b) for a, b in zip(starts, t.bounds.tolist(), strict=True)]
    parameters = [torch.nn.Parameter(t.w[part].clone()) for part in parts]
    scale = 1.0 if t.norm is None else min(1.0, o["max_norm"] / (float(t.norm) + 1e-6))
    groups = [
        {"params": [p], "lr": lr, "weight_decay": decay}
        for p, lr, decay in zip(parameters, t.lr.tolist(), t.weight_decay.tolist(), strict=True)
    ]
    kind = torch.optim.Adam if o["coupled"] else torch.optim.AdamW
    adamw = kind(groups, betas=(o["beta1"], o["beta2"]), eps=o["eps"])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = t.g[part] * scale
        adamw.state[parameter] = {
            "step": t.t.double(),
            "exp_avg": t.m[part].clone(),
            "exp_avg_sq": t.v[part].clone(),
        }
    adamw.step()
    state = [adamw.state[p] for p in parameters]
    results = {
        "w": torch.cat([p.detach() for p in parameters]),
        "m": torch.cat([s["exp_avg"] for s in state]),
        "v": torch.cat([s["exp_avg_sq"] for s in state]),
        "t": state[0]["step"],
    }
    return results if "copy" in o else {**results, "copy": results["w"]}


def public(c: Call):
    o = c.options
    settings = {"betas": (o["beta1"], o["beta2"]), "eps": o["eps"], "coupled": o["coupled"]}
    return results_of(c, ops.adamw.step, ("m", "v"), RATES, **settings)


def step_with(**changed):
    arrays = {n: changed.pop(n, np.ones(3)) for n in "wmvg"}
    options = {
        "lr": np.full(2, 1e-3),
        "weight_decay": np.zeros(2),
        "bounds": np.array([2, 3]),
        "t": np.zeros((), np.int64),
        "betas": (0.9, 0.99),
        "eps": 1e-8,
    }
    return ops.adamw.step(*arrays.values(), **{**options, **changed})


def wide() -> Iterator[Sample]:
    for size in (1020, 20_003):
        yield sample(size, *range(1, size, 23), t=7, copy=size % 2 == 0)
    for size in (1023, 1 << 16, (1 << 16) + 3, 1 << 20, (1 << 20) + 3):
        yield sample(size, size // 3, norm=3.0, t=7, copy=size % 2 == 1)


BUGS = (
    *step_bugs("adamw_step"),
    Bug("m not corrected", "adamw_step", "rate / (1 - beta1**steps)", "rate", None, FORWARD),
    Bug("v not corrected", "adamw_step", "v / (1 - beta2**steps)", "v", None, FORWARD),
    Bug("corrected by the step before", "adamw_step", "steps = int(t)", "steps = int(t) - 1", None,
        FORWARD),
    Bug("not counted", "adamw_step", "t += 1\n    steps = int(t)", "steps = int(t) + 1", None,
        FORWARD),
    Bug("one group for all", "adamw_step", "lr[group], weight_decay[group]",
        "lr[0], weight_decay[0]", None, FORWARD),
    Bug("decay of the next group", "adamw_step", "weight_decay[group]",
        "np.roll(weight_decay, -1)[group]", None, FORWARD),
    Bug("decay not times rate", "adamw_step", "1 - rate * decay", "1 - lr[0] * decay", None,
        FORWARD),
    Bug("copy of the old weights", "adamw_step", "    w *= 1 - rate * decay\n",
        "    if copy is not None:\n        copy[...], copy = w, None\n"
        "    w *= 1 - rate * decay\n", None, FORWARD),
    Bug("eps inside", "adamw_step", "v / (1 - beta2**steps)) + eps",
        "v / (1 - beta2**steps) + eps)", None, FORWARD),
    Bug("a decoupled penalty", "adamw_step", "if coupled:", "if False:", None, FORWARD),
    Bug("both penalties", "adamw_step", "g + decay * w, 0 * decay", "g + decay * w, decay", None,
        FORWARD),
    Bug("penalty before the clipping", "adamw_step",
        "g = g * clip_factor(norm, max_norm)\n",
        "g = g * clip_factor(norm, max_norm)\n"
        "        weight_decay = weight_decay * (clip_factor(norm, max_norm) if coupled else 1)\n",
        None, FORWARD),
    Bug("g not squared", "adamw_step", "* g * g", "* abs(g)", None, FORWARD),
)  # fmt: skip

OP = Op(
    name="adamw",
    forward="adamw_step",
    samples=(
        sample(17, 3, 3, 9, 16, norm=3.0, copy=True),
        sample(0),
        sample(0, 0, norm=1.0, copy=True),
        sample(1, 1),
        sample(2, 0, t=1),
        sample(3, 3, norm=0.5),
        sample(15, 0, 1, 2, 3, 5, 8, 13, 15, t=6),
        sample(33, 16, norm=0.0, copy=True),
        sample(127, 31, 32, 63, 64, 65, t=999, norm=1e4, max_norm=0.1),
        sample(1023, 1000, t=2),
        sample(1025, 17, 513, 1024, t=99_999, lr=1e-4),
        sample(37, 18, t=3, norm=np.nan, copy=True),
        sample(35, 30, t=3, norm=np.inf),
        sample(31, 15, size=1e-8),  # so small that eps matters
        sample(45, 9, 16, 31, t=2, norm=3.0, copy=True, coupled=True),
        sample(1021, 500, t=50, coupled=True),
    ),
    big=sample(300_001, 100_003, 100_003, 200_002, t=1, norm=3.0, copy=True),
    shapes=lambda s: {"copy": s.arrays["w"].shape, "work": (s.arrays["lr"].size, 4)},
    scratch=frozenset({"work"}),
    torch=torch_forward,
    public=public,
    planted=BUGS,
    cuda=Cuda(
        wide=wide,
        instructions=(Rule("adamw_update", loads=4, stores=3),),  # w m v g, w m v
        either=("g", "copy"),
    ),
    errors=(
        *step_errors("adamw", step_with),
        Error(
            ValueError,
            "adamw.step: betas must be at least 0 and less than 1, got (0.9, 1.0)",
            lambda: step_with(betas=(0.9, 1.0)),
        ),
        Error(
            TypeError,
            "adamw.step: w is float64 and m is float32: all arrays of a call",
            lambda: step_with(m=np.ones(3, np.float32)),
        ),
    ),
)


class TestAdamW(OpSuite):
    op = OP
    test_finite_differences = None  # it has no gradient


@pytest.mark.parametrize("coupled", [False, True])
def test_a_thousand_steps_are_those_of_pytorch(coupled: bool) -> None:
    torch = pytest.importorskip("torch")
    rng = generator("adamw", "a thousand steps")
    w, target = rng.standard_normal((2, 7))
    m, v, t = np.zeros(7), np.zeros(7), np.zeros((), np.int64)
    theirs = torch.nn.Parameter(torch.from_numpy(w.copy()))
    kind = torch.optim.Adam if coupled else torch.optim.AdamW
    optimiser = kind([theirs], lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)
    settings = {"lr": np.full(1, 1e-2), "weight_decay": np.full(1, 0.1), "bounds": np.array([7])}
    settings["coupled"] = coupled
    for _ in range(1000):
        g = w - target + 0.1 * rng.standard_normal(7)
        theirs.grad = torch.from_numpy(g.copy())
        torch.nn.utils.clip_grad_norm_([theirs], 0.5)
        optimiser.step()
        norm = ops.grad_norm.norm(g)
        ops.adamw.step(
            w, m, v, g, t=t, betas=(0.9, 0.95), eps=1e-8, norm=norm, max_norm=0.5, **settings
        )
    assert t == 1000
    np.testing.assert_allclose(w, theirs.detach().numpy(), rtol=1e-9)
