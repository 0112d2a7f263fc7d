"""One step of AdamW over all parameters."""

from __future__ import annotations

from bench.lazy import torch
from bench.updates import Update
from byhand.ops import adamw

UPDATE = Update(
    op="adamw",
    step=adamw.step,
    state={"m": True, "v": True},
    settings={"beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "coupled": False},
    options={"betas": (0.9, 0.99), "eps": 1e-8},
    rival=lambda p, **rates: torch.optim.AdamW(p, **rates, betas=(0.9, 0.99), fused=True),
    work=4,
)

CPU, TINY, GPU = UPDATE.cpu, UPDATE.tiny, UPDATE.gpu
