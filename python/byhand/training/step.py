"""A training step on the CPU: forward and backward pass of each batch, and one update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from byhand.optim import Optimizer
from byhand.tasks.task import Batch, Task
from byhand.training.finite import Result, require_finite


class Events(Protocol):
    """Receives the events of a step."""

    def forward(self) -> None: ...
    def loss(self, loss: float | None) -> None: ...
    def backward(self) -> None: ...


class Silent:
    """Ignores all events."""

    def forward(self) -> None:
        pass

    def loss(self, loss: float | None) -> None:
        pass

    def backward(self) -> None:
        pass


def scale_of(task: Task, batches: Sequence[Batch]) -> float:
    """1 / the number of units in all batches; 0 if there are none.

    With it the loss of a step is the mean over all units, so that a batch with ignored targets has
    a smaller weight.
    """
    count = sum(task.count(batch) for batch in batches)
    return 1 / count if count else 0.0


class EagerStep:
    """One update per call, computed immediately.

    Args:
        clip_norm: as for `Optimizer.step`; infinity measures the norm and never clips.

    ``capacity`` is how many calls may be made before ``read`` must be called.
    """

    capacity = 1

    def __init__(
        self,
        task: Task,
        optimizer: Optimizer,
        clip_norm: float | None = None,
        events: Events | None = None,
    ):
        self.task = task
        self.optimizer = optimizer
        self.clip_norm = clip_norm
        self.events = events or Silent()
        self._unread: list[tuple[Result, Sequence[Batch], int]] = []

    def __call__(self, batches: Sequence[Batch], lr: float | None = None) -> None:
        """One update from the mean loss of these batches, with this learning rate from now on.

        The weights are only changed when loss and gradient are finite.
        """
        task = self.task
        if lr is not None:
            self.optimizer.lr = lr
        masks = task.model.generator.count
        task.model.zero_grad()
        scale, total = scale_of(task, batches), 0.0
        for batch in batches:
            loss = float(task.loss(batch, scale))
            total += loss
            self.events.forward()
            self.events.loss(loss)
            task.backward()
            self.events.backward()
        norm = self.optimizer.step(self.clip_norm) if math.isfinite(total) else None
        self._unread.append(((total, None if norm is None else float(norm)), batches, masks))

    def read(self) -> list[Result]:
        """(mean loss, gradient's norm before clipping) of each step since the last ``read``; the
        norm is None without ``clip_norm``. Raises Diverged if one is not finite.
        """
        made, self._unread = self._unread, []
        results = [result for result, _, _ in made]
        for i, (result, batches, masks) in enumerate(made):
            require_finite("the step", result, self.task, batches, masks, results[:i])
        return results
