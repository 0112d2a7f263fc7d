"""Learning-rate schedules: functions of the step, which is counted from 0."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Constant:
    """The same learning rate at every step."""

    lr: float

    def __call__(self, step: int) -> float:
        return self.lr


@dataclass(frozen=True)
class WarmupCosine:
    """Rises linearly to ``lr`` over ``warmup`` updates (Goyal et al., 2017), then falls to
    ``min_lr`` at update ``total`` along half a cosine (Loshchilov & Hutter, 2017, equation 5).
    """

    lr: float
    warmup: int
    total: int
    min_lr: float

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        if step >= self.total:
            return self.min_lr
        progress = (step - self.warmup) / max(self.total - self.warmup, 1)
        return self.min_lr + 0.5 * (self.lr - self.min_lr) * (1 + math.cos(math.pi * progress))
