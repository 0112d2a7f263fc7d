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
        labels = batch["labels"]
        check.ids("Classification", "labels", labels, self._classes())
        if labels.shape != batch["x"].shape[:1]:
            raise check.wrong_shape("Classification", "labels", batch["x"].shape[:1], labels)

    def _classes(self) -> int:
        """The number of classes in the model's configuration; if it has none, no upper bound."""
        config = getattr(self.model, "config", None)
        return getattr(config, "num_classes", np.iinfo(np.int64).max)

    def count(self, batch: Batch) -> int:
        return len(batch["labels"])

    def loss(self, batch: Batch, scale: Any) -> Array:
        with self.model.discard_on_error():
            logits = self.model(batch["x"])
            labels = own_copy(batch["labels"])
            loss, saved = cross_entropy.forward(logits, labels, reduction="sum")
        return self.scaled(loss, cross_entropy.backward, saved, scale)

    def metrics(self, batch: Batch) -> dict[str, tuple[float, int]]:
        there, count = self.on_device(batch), self.count(batch)
        logits = self.model(there["x"])
        loss, _ = cross_entropy.forward(logits, there["labels"], reduction="sum")
        right = backend.to_numpy(logits).argmax(-1) == batch["labels"]
        return {"loss": (float(loss), count), "accuracy": (float(right.sum()), count)}


Task = Classification
