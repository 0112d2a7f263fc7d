"""AdamW: single steps, and a thousand of them against PyTorch."""

import numpy as np
import pytest

from byhand import ops
from tests.kernel_case import Call, Error, Op, Sample, generator, normal
from tests.ops.suite import OpSuite


def sample(
    n: int,
    decayed: int,
    t: int = 1,
    norm: float | None = None,
    max_norm: float = 1.0,
    lr: float = 1e-2,
    size: float = 1.0,
) -> Sample:
    label = f"{n}-decayed {decayed}-t {t}" + ("" if norm is None else f"-norm {norm:g}")
    label += f"-size {size:g}" if size != 1 else ""
    rng = generator("adamw", label)
    return Sample(
        label,
        {
            "w": normal(rng, n),
            "m": np.float32(0.1 * size) * normal(rng, n),
            "v": np.float32(0.1) * np.square(np.float32(size) * normal(rng, n)),
            "g": np.float32(size) * normal(rng, n),
            "norm": None if norm is None else np.asarray(norm, np.float32),
        },
        {
            "decayed": decayed,
            "lr": lr,
            "beta1": 0.85,
            "beta2": 0.97,
            "eps": 1e-8,
            "weight_decay": 0.3,
            "t": t,
            "max_norm": max_norm,
        },
    )


def torch_forward(t, o):
    """PyTorch's own optimiser, started in the middle of its life."""
    import torch

    w = torch.nn.Parameter(t.w[: o["decayed"]].clone()), torch.nn.Parameter(t.w[o["decayed"] :])
    scale = 1.0 if t.norm is None else min(1.0, o["max_norm"] / (float(t.norm) + 1e-6))
    groups = [
        {"params": [w[0]], "weight_decay": o["weight_decay"]},
        {"params": [w[1]], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=o["lr"], betas=(o["beta1"], o["beta2"]), eps=o["eps"])
    for parameter, part in zip(w, (slice(o["decayed"]), slice(o["decayed"], None)), strict=True):
        parameter.grad = t.g[part] * scale
        adamw.state[parameter] = {
            "step": torch.tensor(float(o["t"] - 1)),
            "exp_avg": t.m[part].clone(),
            "exp_avg_sq": t.v[part].clone(),
        }
    adamw.step()
    state = [adamw.state[p] for p in w]
    return {
        "w": torch.cat([p.detach() for p in w]),
        "m": torch.cat([s["exp_avg"] for s in state]),
        "v": torch.cat([s["exp_avg_sq"] for s in state]),
    }


def door(c: Call):
    a, o = c.arrays, dict(c.options)
    betas = (o.pop("beta1"), o.pop("beta2"))
    ops.adamw.step(a["w"], a["m"], a["v"], a["g"], norm=a["norm"], betas=betas, **o)
    return {"w": a["w"], "m": a["m"], "v": a["v"]}


def step_with(**changed):
    arrays = {n: changed.pop(n, np.ones(3)) for n in "wmvg"}
    options = {"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}
    options.update({"t": 1, "decayed": 2, **changed})
    return ops.adamw.step(*arrays.values(), **options)


OP = Op(
    name="adamw",
    forward="adamw_step",
    samples=(
        sample(17, 5, norm=3.0),
        sample(0, 0),
        sample(1, 1),
        sample(2, 0, t=2),
        sample(3, 3, norm=0.5),
        sample(15, 16 - 1, t=7),
        sample(33, 16, norm=0.0),
        sample(127, 31, t=1000, norm=1e4, max_norm=0.1),
        sample(1023, 1000, t=3),
        sample(1025, 17, t=100_000, lr=1e-4),
        sample(31, 15, size=1e-8),  # where eps counts
    ),
    big=sample(300_001, 100_003, t=2, norm=3.0),
    shapes=lambda s: {},
    torch=torch_forward,
    door=door,
    errors=(
        Error(
            ValueError,
            "adamw.step: w must have shape (N,), got (2, 3)",
            lambda: step_with(w=np.ones((2, 3))),
        ),
        Error(
            ValueError,
            "adamw.step: m must have shape (3,), got (2,)",
            lambda: step_with(m=np.ones(2)),
        ),
        Error(
            ValueError,
            "adamw.step: v must have shape (3,), got (2,)",
            lambda: step_with(v=np.ones(2)),
        ),
        Error(
            ValueError,
            "adamw.step: g must have shape (3,), got (4,)",
            lambda: step_with(g=np.ones(4)),
        ),
        Error(
            ValueError,
            "adamw.step: norm must have shape (), got (1,)",
            lambda: step_with(norm=np.ones(1), max_norm=1.0),
        ),
        Error(
            ValueError,
            "adamw.step: max_norm must be positive when norm is given, got 0.0",
            lambda: step_with(norm=np.ones(())),
        ),
        Error(ValueError, "adamw.step: t must be at least 1, got 0", lambda: step_with(t=0)),
        Error(
            ValueError,
            "adamw.step: decayed must be in 0..3, got 4",
            lambda: step_with(decayed=4),
        ),
        Error(
            ValueError,
            "adamw.step: betas must be at least 0 and less than 1, got (0.9, 1.0)",
            lambda: step_with(betas=(0.9, 1.0)),
        ),
        Error(
            TypeError,
            "adamw_step: m must be float64",
            lambda: step_with(m=np.ones(3, np.float32)),
        ),
    ),
)


class TestAdamW(OpSuite):
    op = OP
    test_finite_differences = None  # no gradient flows through it


def test_a_thousand_steps_are_those_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    rng = generator("adamw", "a thousand steps")
    w, target = rng.standard_normal((2, 7))
    m, v = np.zeros(7), np.zeros(7)
    theirs = torch.nn.Parameter(torch.from_numpy(w.copy()))
    optimiser = torch.optim.AdamW([theirs], lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)
    for t in range(1, 1001):
        g = w - target + 0.1 * rng.standard_normal(7)
        theirs.grad = torch.from_numpy(g.copy())
        torch.nn.utils.clip_grad_norm_([theirs], 0.5)
        optimiser.step()
        norm = ops.grad_norm.norm(g)
        ops.adamw.step(
            w, m, v, g, lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, t=t, decayed=7,
            norm=norm, max_norm=0.5,
        )  # fmt: skip
    np.testing.assert_allclose(w, theirs.detach().numpy(), rtol=1e-9)
