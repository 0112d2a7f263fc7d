"""One step of RMSprop over all parameters."""

from __future__ import annotations

from bench.lazy import torch
from bench.updates import Update
from byhand.ops import rmsprop

UPDATE = Update(
    op="rmsprop",
    step=rmsprop.step,
    state={"v": True, "mean": False, "m": False},
    settings={"alpha": 0.99, "eps": 1e-8, "momentum": 0.0},
    rival=lambda p, **rates: torch.optim.RMSprop(p, **rates),
    work=3,
)

CPU, TINY, GPU = UPDATE.cpu, UPDATE.tiny, UPDATE.gpu
