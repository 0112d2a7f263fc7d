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
        _require_numbers(self, "lr", "warmup", "min_lr")
        _require_counts(self, "total")

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        if step >= self.total:
            return self.min_lr
        progress = (step - self.warmup) / max(self.total - self.warmup, 1)
        return self.min_lr + 0.5 * (self.lr - self.min_lr) * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class StepDecay:
    """``lr`` times ``factor`` after every ``every`` updates: lr factor^floor(step / every)."""

    lr: float
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        _require_numbers(self, "lr", "factor")
        _require_counts(self, "every")

    def __call__(self, step: int) -> float:
        return self.lr * self.factor ** (step // self.every)


@dataclass(frozen=True)
class InverseSqrt:
    """Rises linearly to ``lr`` over ``warmup`` updates, then falls with the inverse square root of
    the number of updates: lr min(n / warmup, sqrt(warmup / n)) at update n = step + 1 (Vaswani et
    al., 2017, equation 3, whose factor is written here as the highest rate). Without warmup it is
    lr / sqrt(n).
    """

    lr: float
    warmup: int = 0

    def __post_init__(self) -> None:
        _require_numbers(self, "lr", "warmup")

    def __call__(self, step: int) -> float:
        n, warmup = step + 1, max(self.warmup, 1)
        return self.lr * min(n / warmup, math.sqrt(warmup / n))


@dataclass(frozen=True)
class OneCycle:
    """Rises from ``max_lr / div_factor`` to ``max_lr`` over the first ``pct_start`` of ``total``
    updates and falls to ``max_lr / div_factor / final_div_factor`` at the last one, each along half
    a cosine (Smith & Topin, 2017, in the form of PyTorch's OneCycleLR); stays there after it.
    """

    max_lr: float
    total: int
    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def __post_init__(self) -> None:
        _require_numbers(self, "max_lr", "pct_start", "div_factor", "final_div_factor")
        _require_counts(self, "total")
        if self.pct_start > 1:
            raise ValueError(f"OneCycle: pct_start must be at most 1, got {self.pct_start!r}")
        for name in ("div_factor", "final_div_factor"):
            if not getattr(self, name) > 0:
                raise ValueError(f"OneCycle: {name} must be above 0, got {getattr(self, name)!r}")

    def __call__(self, step: int) -> float:
        first = self.max_lr / self.div_factor
        last, top = self.total - 1, self.pct_start * self.total - 1
        if step <= top:
            return _half_cosine(first, self.max_lr, step / top if top else 1.0)
        progress = (step - top) / (last - top) if step < last else 1.0
        return _half_cosine(self.max_lr, first / self.final_div_factor, progress)


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * progress))


def _require_numbers(schedule: Any, *names: str) -> None:
    """ValueError naming the field that is not a finite number of at least 0."""
    for name in names:
        value = getattr(schedule, name)
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not is_number or not 0 <= value < math.inf:
            raise ValueError(
                f"{type(schedule).__name__}: {name} must be a finite number >= 0, got {value!r}"
            )


def _require_counts(schedule: Any, *names: str) -> None:
    """ValueError naming the field that is not a whole number of at least 1."""
    for name in names:
        value = getattr(schedule, name)
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
            raise ValueError(
                f"{type(schedule).__name__}: {name} must be a whole number >= 1, got {value!r}"
            )
