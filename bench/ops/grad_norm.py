"""The norm of all gradients, and clipping by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bench import gpu_case
from bench.cpu_case import PARAMETERS, Case, cost, floats, single
from bench.gpu_case import F32, Calls, Maker, torch_forward, torch_normal
from bench.lazy import torch
from byhand.ops import grad_norm


def norm_case(name: str, N: int) -> Case:
    g = floats(N)
    t = torch.from_numpy(g)
    return Case(
        name,
        lambda: grad_norm.norm(g),
        {"torch": lambda: torch.linalg.vector_norm(t), "numpy": lambda: np.linalg.norm(g)},
        **cost("grad_norm", {"N": N}),
        stream="read",
    )


def clip_case(name: str, N: int) -> Case:
    g = floats(N)
    t, norm = torch.from_numpy(g).clone(), np.ones((), np.float32)
    factor = np.float32(1 - 1e-6)  # a factor of 1 would be skipped, a small one ends in denormals

    def multiply() -> None:
        np.multiply(g, factor, out=g)

    return Case(
        name,
        lambda: grad_norm.clip(g, norm, float(factor)),
        {"torch": lambda: t.mul_(float(factor)), "numpy": multiply},
        **cost("clip", {"N": N}),
        stream="update",
    )


def calls(m: Maker, N: int) -> Iterator[gpu_case.Case]:
    def scale() -> Callable[[], Any]:
        g = torch_normal(m.dtype, N)
        return lambda: g.mul_(0.999)

    g = m.normal(N)
    rival = torch_forward(m.dtype, lambda g: torch.linalg.vector_norm(g), (N,))
    arguments = {"norm": m.full(0), "work": m.full(0, 1024), "g": g}
    yield m.case("grad_norm", arguments, (N,), rival, N=N)
    # A norm above the limit, so that there is something to scale.
    yield m.case("clip", {"g": g, "norm": m.full(10), "max_norm": 9.99}, (N,), scale, N=N)


CPU = [
    *(single(f"grad_norm {N}", norm_case, N) for N in PARAMETERS.values()),
    *(single(f"clip {N}", clip_case, N) for N in PARAMETERS.values()),
]
TINY = [single("grad_norm", norm_case, 16), single("clip", clip_case, 16)]
GPU = Calls(calls, small=[(1003,)], full=[(124_439_808,)], counted=(10_007,), dtypes=(F32,))
