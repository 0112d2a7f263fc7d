"""Learning-rate schedules: functions of the step, which is counted from 0."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Constant:
    """The same learning rate at every step."""

    lr: float

    def __post_init__(self) -> None:
        _require_numbers(self, "lr")

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

    def __post_init__(self) -> None:
        _require_numbers(self, "lr", "warmup", "total", "min_lr")

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        if step >= self.total:
            return self.min_lr
        progress = (step - self.warmup) / max(self.total - self.warmup, 1)
        return self.min_lr + 0.5 * (self.lr - self.min_lr) * (1 + math.cos(math.pi * progress))


def _require_numbers(schedule: Any, *names: str) -> None:
    """ValueError naming the field that is not a finite number of at least 0."""
    for name in names:
        value = getattr(schedule, name)
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not is_number or not 0 <= value < math.inf:
            raise ValueError(
                f"{type(schedule).__name__}: {name} must be a finite number >= 0, got {value!r}"
            )
