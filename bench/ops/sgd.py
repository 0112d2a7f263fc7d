"""One step of SGD with momentum over all parameters."""

from __future__ import annotations

from bench.lazy import torch
from bench.updates import Update
from byhand.ops import sgd

UPDATE = Update(
    op="sgd",
    step=sgd.step,
    state={"m": True},
    settings={"momentum": 0.9, "nesterov": False},
    rival=lambda p, **rates: torch.optim.SGD(p, **rates, momentum=0.9, fused=True),
    work=5,
    penalties=("l1", "l2"),
)

CPU, TINY, GPU = UPDATE.cpu, UPDATE.tiny, UPDATE.gpu
