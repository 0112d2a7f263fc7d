"""One step of RMSprop over all parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from bench import gpu_case
from bench.cpu_case import PARAMETERS, Case, cost, floats, single, zeros
from bench.gpu_case import F32, Calls, Maker, torch_normal
from bench.lazy import torch
from byhand.ops import rmsprop

SETTINGS: dict[str, Any] = {"alpha": 0.99, "eps": 1e-8, "momentum": 0.0}


def case(name: str, N: int) -> Case:
    w, g = floats(N), floats(N)
    v = zeros(w)
    p = torch.from_numpy(w).clone().requires_grad_(True)
    p.grad = torch.from_numpy(g).clone()
    rival = torch.optim.RMSprop([p], lr=1e-3, weight_decay=0.1, **SETTINGS)
    groups = dict(
        lr=np.full(1, 1e-3, np.float32),
        weight_decay=np.full(1, 0.1, np.float32),
        bounds=np.array([N]),
        t=np.zeros((), np.int64),
    )
    return Case(
        name,
        lambda: rmsprop.step(w, v, None, None, g, **groups, **SETTINGS),
        {"torch": rival.step},
        **cost("rmsprop_step", {"N": N}),
        stream="update",
    )


def calls(m: Maker, N: int) -> Iterator[gpu_case.Case]:
    def rival() -> Callable[[], Any]:
        p = torch_normal(m.dtype, N).requires_grad_()
        p.grad = torch_normal(m.dtype, N)
        return torch.optim.RMSprop([p], lr=1e-3, **SETTINGS).step

    state = {"w": m.normal(N), "v": m.full(0, N)}
    state |= {"t": m.xp.zeros((), np.int64), "work": m.full(0, 2, 3)}
    bounds = m.xp.asarray(np.array([N // 2, N], np.int64))
    groups = {"bounds": bounds, "lr": m.full(1e-3, 2), "weight_decay": m.full(0.01, 2)}
    update = {**state, **groups, **SETTINGS, "max_norm": 1.0}
    yield m.case("rmsprop_step", {**update, "g": m.normal(N)}, (N,), rival, N=N)
    # Gradients in bfloat16, and a copy of the weights for the model.
    arguments = {**update, "g": m.normal(N, dtype="bfloat16"), "norm": m.full(10)}
    arguments |= {"copy": m.empty(N, dtype="bfloat16")}
    case = m.case("rmsprop_step", arguments, (N,), rival, "copy", N=N)
    yield replace(case, dtype="bfloat16")


CPU = [single(f"rmsprop {N}", case, N) for N in PARAMETERS.values()]
TINY = [single("rmsprop", case, 16)]
GPU = Calls(calls, small=[(1003,)], full=[(124_439_808,)], counted=(10_007,), dtypes=(F32,))
