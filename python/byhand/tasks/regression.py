"""The regression task: the mean squared error of real outputs."""

from __future__ import annotations

from typing import Any

import numpy as np

from byhand.backend import Array
from byhand.nn.protocol import own_copy, require_like
from byhand.ops import check, pointwise_loss
from byhand.tasks import task
from byhand.tasks.task import Batch


class Regression(task.OutputTask):
    """Batches of "x" (B, ...), the model's input, and "targets" (B, ...), real numbers.

    The targets have the shape and the dtype of the model's output. The loss of an example is the
    mean over its outputs of (output - target)^2, as PyTorch's `MSELoss`. Metric: loss.
    """

    unit = "example"
    loss_unit = "mean squared error"

    def check(self, batch: Batch) -> None:
        x, targets = self._taken(batch, "x", "targets")
        if targets.dtype.kind != "f":
            raise TypeError(
                f"Regression: targets must be real numbers, got {targets.dtype}: use "
                "targets.astype(np.float32)"
            )
        if targets.shape[:1] != x.shape[:1]:
            raise check.wrong_shape("Regression", "targets", f"({len(x)}, ...)", targets)
        if bad := check.first_where("targets", targets, ~np.isfinite(targets)):
            raise ValueError(f"Regression: {bad} is not a finite number")

    def count(self, batch: Batch) -> int:
        return len(self._taken(batch, "targets")[0])

    def loss(self, batch: Batch, scale: Any) -> Array:
        x, targets = self._taken(batch, "x", "targets")
        with self.model.discard_on_error():
            y = self.model(x)
            require_like("Regression", "targets", targets, y)
            if targets.shape != y.shape:
                raise check.wrong_shape("Regression", "targets", y.shape, targets)
            share = max(len(y), 1) / max(y.size, 1)  # of an output in the loss of its example
            loss, saved = pointwise_loss.forward(y, own_copy(targets), "squared", share, "sum")
        return self.scaled(loss, pointwise_loss.backward, saved, scale)


Task = Regression
