"""What the cases of the optimizers' steps share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from bench import gpu_case
from bench.cpu_case import PARAMETERS, Case, Spec, cost, floats, single, zeros
from bench.gpu_case import F32, Calls, Maker, torch_normal
from bench.lazy import torch


@dataclass(frozen=True)
class Update:
    """One step of an optimizer over all parameters, beside PyTorch's.

    Attributes:
        op: the op; its kernel is <op>_step.
        step: its public function, of w, the arrays of the state, g and settings.
        state: the arrays that the step may keep for each parameter, and whether it does here.
        settings: of the kernel; `options` are those of the public function if they are others.
        rival: PyTorch's optimizer, of a list of parameters, with lr and weight_decay.
        work: how many numbers the kernel keeps for each group.
        penalties: the settings of groups beside lr and weight_decay; 0 here.
    """

    op: str
    step: Callable[..., None]
    state: dict[str, bool]
    settings: dict[str, Any]
    rival: Callable[..., Any]
    work: int
    options: dict[str, Any] = field(default_factory=dict)
    penalties: tuple[str, ...] = ()

    @property
    def cpu(self) -> list[Spec]:
        return [single(f"{self.op} {N}", self._case, N) for N in PARAMETERS.values()]

    @property
    def tiny(self) -> list[Spec]:
        return [single(self.op, self._case, 16)]

    @property
    def gpu(self) -> Calls:
        return Calls(
            self._calls, small=[(1003,)], full=[(124_439_808,)], counted=(10_007,), dtypes=(F32,)
        )

    @property
    def _kept(self) -> list[str]:
        return [name for name, kept in self.state.items() if kept]

    def _case(self, name: str, N: int) -> Case:
        w, g = floats(N), floats(N)
        state = [zeros(w) if kept else None for kept in self.state.values()]
        p = torch.from_numpy(w).clone().requires_grad_(True)
        p.grad = torch.from_numpy(g).clone()
        groups = {"lr": 1e-3, "weight_decay": 0.1, **dict.fromkeys(self.penalties, 0.0)}
        settings = {
            **{key: np.full(1, value, np.float32) for key, value in groups.items()},
            **(self.options or self.settings),
            "bounds": np.array([N]),
            "t": np.zeros((), np.int64),
        }
        return Case(
            name,
            partial(self.step, w, *state, g, **settings),
            {"torch": self.rival([p], lr=1e-3, weight_decay=0.1).step},
            **cost(f"{self.op}_step", {"N": N}, self._kept),
            stream="update",
        )

    def _calls(self, m: Maker, N: int) -> Iterator[gpu_case.Case]:
        def rival() -> Callable[[], Any]:
            p = torch_normal(m.dtype, N).requires_grad_()
            p.grad = torch_normal(m.dtype, N)
            return self.rival([p], lr=1e-3, weight_decay=0.01).step

        kernel = f"{self.op}_step"
        groups = {"lr": 1e-3, "weight_decay": 0.01, **dict.fromkeys(self.penalties, 0.0)}
        update = {
            "w": m.normal(N),
            **{name: m.full(0, N) for name in self._kept},
            **{key: m.full(value, 2) for key, value in groups.items()},
            **self.settings,
            "bounds": m.xp.asarray(np.array([N // 2, N], np.int64)),
            "t": m.xp.zeros((), np.int64),
            "work": m.full(0, 2, self.work),
            "max_norm": 1.0,
        }
        yield m.case(kernel, {**update, "g": m.normal(N)}, (N,), rival, N=N)
        # Gradients in bfloat16, and a copy of the weights for the model, which has as many bytes.
        arguments = {**update, "g": m.normal(N, dtype="bfloat16"), "norm": m.full(10)}
        arguments |= {"copy": m.empty(N, dtype="bfloat16")}
        case = m.case(kernel, arguments, (N,), rival, "copy", N=N)
        yield replace(case, dtype="bfloat16")
