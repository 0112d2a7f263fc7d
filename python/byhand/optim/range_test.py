"""The learning-rate range test, which finds a learning rate before the training."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from byhand.optim.optimizer import Optimizer, require_number

_DIVERGED = 4.0  # times the lowest smoothed loss
_SMOOTHING = 0.9


@dataclass(frozen=True)
class RangeTest:
    """What `find_lr` measured.

    Attributes:
        lrs: the learning rate of each step, ascending.
        losses: the loss before each step, as many.
    """

    lrs: list[float]
    losses: list[float]

    @property
    def smoothed(self) -> list[float]:
        """The losses, each averaged with those before it (by 0.9, corrected for the start)."""
        found, mean = [], 0.0
        for n, loss in enumerate(self.losses, 1):
            mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
            found.append(mean / (1 - _SMOOTHING**n))
        return found

    @property
    def steepest(self) -> float:
        """The learning rate at which the smoothed loss falls fastest per factor of the rate: a
        value to train with. ValueError if the loss falls nowhere.
        """
        falls = np.diff(self.smoothed)
        falls[np.abs(falls) < 1e-12 * np.abs(self.smoothed[1:])] = 0  # rounding
        slopes = falls / np.diff(np.log(self.lrs))
        if not len(slopes) or not slopes.min() < 0:
            raise ValueError("find_lr: the loss falls at no learning rate of the range")
        return self.lrs[int(slopes.argmin()) + 1]


def find_lr(
    optimizer: Optimizer,
    loss: Callable[[], Any],
    lr_min: float = 1e-6,
    lr_max: float = 1.0,
    steps: int = 100,
) -> RangeTest:
    """Takes steps with a learning rate that rises from lr_min to lr_max, and records the losses
    (Smith, 2017, "Cyclical learning rates for training neural networks", section 3.3; the rate
    rises by a constant factor here, so that a wide range can be tested).

    Stops early when the loss is not finite or has risen to 4 times the lowest. The model, the
    optimizer and the dropout generator are afterwards what they were; the gradients are zeroed.
    Groups with a learning rate of their own keep it.

    Args:
        loss: runs the forward and the backward pass of the next batch and returns the loss.
        lr_min, lr_max: positive, lr_min < lr_max.
        steps: at least 2.

    ValueError naming the argument that is out of range, TypeError for an optimizer or a loss of
    another type.
    """
    if not isinstance(optimizer, Optimizer):
        kind = type(optimizer).__name__
        raise TypeError(f"find_lr: the first argument must be an optimizer, got {kind}")
    if not callable(loss):
        kind = type(loss).__name__
        raise TypeError(f"find_lr: loss must be a function that returns the loss, got {kind}")
    low = require_number("find_lr", "lr_min", lr_min)
    high = require_number("find_lr", "lr_max", lr_max)
    if not 0 < low < high < math.inf:
        raise ValueError(
            f"find_lr: lr_min and lr_max must be 0 < lr_min < lr_max, got {lr_min} and {lr_max}"
        )
    if isinstance(steps, bool) or not isinstance(steps, numbers.Integral) or steps < 2:
        raise ValueError(f"find_lr: steps must be a whole number >= 2, got {steps!r}")
    model = optimizer.model
    weights = {name: value.copy() for name, value in model.state_dict().items()}
    masks, lr, done = model.generator.state_dict(), optimizer.lr, optimizer.step_count
    slots = {name: flat.copy() for name, flat in optimizer.slots.items()}
    found = RangeTest([], [])
    try:
        for i in range(steps):
            optimizer.lr = low * (high / low) ** (i / (steps - 1))
            optimizer.zero_grad()
            value = require_number("find_lr", "what loss() returns", loss())
            if not math.isfinite(value):
                break
            found.lrs.append(optimizer.lr)
            found.losses.append(value)
            smoothed = found.smoothed
            if smoothed[-1] > _DIVERGED * min(smoothed):
                break
            optimizer.step()
    finally:
        optimizer.lr = lr
        optimizer._t[...] = done
        for name, flat in slots.items():
            optimizer.slots[name][...] = flat
        model.load_state_dict(weights, allow_non_finite=True)
        model.generator.load_state_dict(masks)
        optimizer.zero_grad()
    return found
