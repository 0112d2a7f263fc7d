"""One step of Adagrad over all parameters."""

from __future__ import annotations

from bench.lazy import torch
from bench.updates import Update
from byhand.ops import adagrad

UPDATE = Update(
    op="adagrad",
    step=adagrad.step,
    state={"v": True},
    settings={"lr_decay": 0.0, "eps": 1e-10},
    rival=lambda p, **rates: torch.optim.Adagrad(p, **rates),
    work=3,
)

CPU, TINY, GPU = UPDATE.cpu, UPDATE.tiny, UPDATE.gpu
