"""The base of the tasks whose model computes its loss itself, from a batch of named arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from byhand.backend import Array
from byhand.ops.check import IGNORED
from byhand.tasks import task
from byhand.tasks.task import Batch


class EncoderTask(task.Task):
    """A task of a model with ``loss(ids, labels, lengths, segments, ..., scale)``, as `byhand.Bert`
    has with the head that the task needs.
    """

    head = ""
    required: tuple[str, ...] = ("ids", "labels")
    optional: tuple[str, ...] = ("lengths", "segments")
    inputs: tuple[str, ...] = ("ids", "lengths", "segments")  # of the model

    def __init__(self, model: Any):
        has = getattr(getattr(model, "config", None), "head", None)
        if has != self.head:
            kind = type(self).__name__
            given = f"a head {has!r}" if has else type(model).__name__
            raise TypeError(f"{kind} takes a model with the head {self.head!r}, got {given}")
        super().__init__(model)
        self.model: Any = model

    def _fields(self, batch: Batch) -> dict[str, Array]:
        """The arguments of the model's loss in a batch."""
        self._taken(batch, *self.required)
        names = [*self.required, *(name for name in self.optional if name in batch)]
        return dict(zip(names, self._taken(batch, *names), strict=True))

    def _inputs(self, fields: dict[str, Array]) -> dict[str, Array]:
        return {n: fields[n] for n in self.inputs if n in fields}

    def check(self, batch: Batch) -> None:
        self.model.check(**self._fields(batch))

    def count(self, batch: Batch) -> int:
        return int(np.count_nonzero(self._fields(batch)["labels"] != IGNORED))

    def loss(self, batch: Batch, scale: Any) -> Array:
        return self.model.loss(**self._fields(batch), scale=scale)

    def backward(self) -> None:
        self.model.backward()
