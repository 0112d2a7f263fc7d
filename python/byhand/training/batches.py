"""The data of a trainer, and the batches of its steps."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

from byhand.tasks.task import Batch

if TYPE_CHECKING:
    from byhand.data import Dataset
    from byhand.training.trainer import Trainer


class Data(Protocol):
    """The training examples and the validation batches."""

    train: Dataset

    def validation(self) -> Iterable[Batch]:
        """The same batches on every call; empty if there is nothing to evaluate on."""
        ...


class Abandoned(Exception):
    """The step was not finished, because the run shall end."""


class StepBatches:
    """The batches of a trainer's coming step, one for each pass, each made when it is needed.

    Raises Abandoned between two batches once the trainer's ``stop`` is true.
    """

    def __init__(self, trainer: Trainer):
        self._trainer = trainer

    def __len__(self) -> int:
        return min(self._trainer.settings.accumulate, sys.maxsize)  # the most that len() gives

    def __iter__(self) -> Iterator[Batch]:
        trainer = self._trainer
        for i in range(len(self)):
            if i and trainer.stop:
                raise Abandoned
            batch = trainer.data.train.batch(next(trainer.sampler))
            for callback in trainer.callbacks:
                callback.on_load(trainer, batch)
            yield batch
