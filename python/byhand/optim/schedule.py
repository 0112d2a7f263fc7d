"""Learning-rate schedules: plain functions of the step."""

from __future__ import annotations

import math


def warmup_cosine(
    step: int, *, lr: float, min_lr: float, warmup_steps: int, total_steps: int
) -> float:
    """The learning rate of update ``step`` (the first is 0).

    Rises linearly to ``lr`` over ``warmup_steps`` updates (Goyal et al., 2017), then falls to
    ``min_lr`` at ``total_steps`` along half a cosine (Loshchilov & Hutter, 2017, equation 5).
    """
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    if step >= total_steps:
        return min_lr
    progress = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return min_lr + 0.5 * (lr - min_lr) * (1 + math.cos(math.pi * progress))
