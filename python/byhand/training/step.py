"""A training step on the CPU: forward and backward pass of each batch, and one update."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
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


class Batches(Protocol):
    """The batches of a step: a list, or anything else whose length is known. They are read once,
    one at a time, so that a step of many batches needs the memory of one.
    """

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Batch]: ...


class Kept:
    """The last batches of a step, with the number of dropout masks drawn before the first of them:
    what is needed to find a value that is not finite.
    """

    MOST = 16

    def __init__(self) -> None:
        self._kept: deque[tuple[Batch, int]] = deque(maxlen=self.MOST)

    def add(self, batch: Batch, masks: int) -> None:
        self._kept.append((batch, masks))

    @property
    def batches(self) -> list[Batch]:
        return [batch for batch, _ in self._kept]

    @property
    def masks(self) -> int:
        return self._kept[0][1] if self._kept else 0


class MeanScale:
    """The scale that makes the loss of a step the mean over the units of all its batches, so that a
    batch with ignored targets has a smaller weight.

    It is 1 / the number of all units, which is not known before the last batch. Until then
    every batch is taken to have as many units as the first one; if that was wrong, the losses and
    gradients so far are corrected before the last batch.

    Attributes:
        value: the scale for the batch that was counted last.
        units: of the batches counted so far.
    """

    def __init__(self, number: int) -> None:
        """number: of batches in the step."""
        self._number = number
        self._seen = 0
        self.units = 0
        self.value = 0.0

    def count(self, units: int) -> float:
        """Counts the next batch -> the factor by which the losses and gradients so far must be
        multiplied before it; 1 unless it is the last batch and the batches had unequal numbers of
        units.
        """
        self._seen += 1
        self.units += units
        former = self.value
        if self._seen == 1:
            self.value = 1 / (max(units, 1) * self._number)
        elif self._seen == self._number:
            self.value = 1 / max(self.units, 1)
        return self.value / former if former else 1.0


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
        self.units = 0  # in the last call
        self._unread: list[tuple[Result, Kept]] = []

    def __call__(self, batches: Batches, lr: float | None = None) -> None:
        """One update from the mean loss of these batches, with this learning rate from now on.

        The weights are only changed when loss and gradient are finite.
        """
        task = self.task
        if lr is not None:
            self.optimizer.lr = lr
        task.model.zero_grad()
        scale, total, kept = MeanScale(len(batches)), 0.0, Kept()
        for batch in batches:
            if math.isfinite(total):
                kept.add(batch, task.model.generator.count)
            factor = scale.count(task.count(batch))
            if factor != 1:
                task.model.storage.grads *= factor
                total *= factor
            loss = float(task.loss(batch, scale.value))
            total += loss
            self.events.forward()
            self.events.loss(loss)
            task.backward()
            self.events.backward()
        self.units = scale.units
        norm = self.optimizer.step(clip_norm=self.clip_norm) if math.isfinite(total) else None
        self._unread.append(((total, None if norm is None else float(norm)), kept))

    def read(self) -> list[Result]:
        """(mean loss, gradient's norm before clipping) of each step since the last ``read``; the
        norm is None without ``clip_norm``. Raises Diverged if one is not finite.
        """
        made, self._unread = self._unread, []
        results = [result for result, _ in made]
        for i, (result, kept) in enumerate(made):
            require_finite("the step", result, self.task, kept.batches, kept.masks, results[:i])
        return results
