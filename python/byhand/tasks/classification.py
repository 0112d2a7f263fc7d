"""The classification task: the cross-entropy of class logits."""

from __future__ import annotations

from typing import Any

import numpy as np

from byhand import backend
from byhand.backend import Array
from byhand.nn.protocol import own_copy
from byhand.ops import check, cross_entropy
from byhand.tasks import task
from byhand.tasks.task import Batch


class Classification(task.OutputTask):
    """Batches of "x" (B, ...), the model's input, and "labels" (B,) int64, the classes.

    The model gives logits (B, classes); the loss is their cross-entropy. Metrics: loss
    and accuracy.
    """

    unit = "example"
    loss_unit = "nats per example"

    def check(self, batch: Batch) -> None:
        x, labels = self._taken(batch, "x", "labels")
        check.ids("Classification", "labels", labels, self._classes(), of="the classes")
        if labels.shape != x.shape[:1]:
            raise check.wrong_shape("Classification", "labels", x.shape[:1], labels)

    def _classes(self) -> int:
        """The number of classes in the model's configuration; if it has none, no upper bound."""
        config = getattr(self.model, "config", None)
        return getattr(config, "num_classes", np.iinfo(np.int64).max)

    def count(self, batch: Batch) -> int:
        return len(self._taken(batch, "labels")[0])

    def _logits(self, batch: Batch) -> tuple[Array, Array]:
        """The logits and a copy of the labels, which fit them."""
        x, labels = self._taken(batch, "x", "labels")
        logits = self.model(x)
        if labels.shape != logits.shape[:-1]:
            raise check.wrong_shape("Classification", "labels", logits.shape[:-1], labels)
        check.ids("Classification", "labels", labels, logits.shape[-1], of="the classes")
        return logits, own_copy(labels)

    def loss(self, batch: Batch, scale: Any) -> Array:
        with self.model.discard_on_error():
            logits, labels = self._logits(batch)
            loss, saved = cross_entropy.forward(logits, labels, reduction="sum")
        return self.scaled(loss, cross_entropy.backward, saved, scale)

    def metrics(self, batch: Batch) -> dict[str, tuple[float, int]]:
        count, there = self.count(batch), self.on_device(batch)
        logits, labels = self._logits(there)
        loss, _ = cross_entropy.forward(logits, labels, reduction="sum")
        right = backend.to_numpy(logits).argmax(-1) == backend.to_numpy(labels)
        return {"loss": (float(loss), count), "accuracy": (float(right.sum()), count)}


Task = Classification
