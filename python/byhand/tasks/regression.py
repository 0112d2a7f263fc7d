"""The regression task: the mean squared error of real outputs."""

from __future__ import annotations

from typing import Any

import numpy as np

from byhand import backend
from byhand.backend import Array
from byhand.nn.protocol import own_copy, require_like
from byhand.ops import check
from byhand.tasks import task
from byhand.tasks.task import Batch


class Regression(task.Task):
    """Batches of "x" (B, ...), the model's input, and "targets" (B, ...), real numbers.

    The targets have the shape and the dtype of the model's output. The loss of an example is the
    mean over its outputs of (output - target)^2, as PyTorch's `MSELoss`. Metric: loss.
    """

    unit = "example"
    loss_unit = "mean squared error"
    _saved: tuple[Array, Any, int] | None = None

    def check(self, batch: Batch) -> None:
        x, targets = batch["x"], batch["targets"]
        if targets.dtype.kind != "f":
            raise TypeError(
                f"Regression: targets must be real numbers, got {targets.dtype}: use "
                "targets.astype(np.float32)"
            )
        if targets.shape[:1] != x.shape[:1]:
            raise check.wrong_shape("Regression", "targets", f"({len(x)}, ...)", targets)
        if not np.isfinite(targets).all():
            where = tuple(np.argwhere(~np.isfinite(targets))[0].tolist())
            position = ", ".join(map(str, where))
            raise ValueError(
                f"Regression: targets[{position}] = {targets[where]} is not a finite number"
            )

    def count(self, batch: Batch) -> int:
        return len(batch["targets"])

    def loss(self, batch: Batch, scale: Any) -> Array:
        with self.model.discard_on_error():
            y, targets = self.model(batch["x"]), batch["targets"]
            require_like("Regression", "targets", targets, y)
            if targets.shape != y.shape:
                raise check.wrong_shape("Regression", "targets", y.shape, targets)
        outputs = max(y.size // max(len(y), 1), 1)
        difference = y - targets
        self._saved = difference, own_copy(scale), outputs
        loss = backend.empty((), y)
        with np.errstate(over="ignore"):  # the step reports a loss that is not finite
            loss[...] = (difference * difference).sum() * (scale / outputs)
        return loss

    def backward(self) -> None:
        if self._saved is None:
            raise RuntimeError("Regression.backward was called without a loss before it")
        difference, scale, outputs = self._saved
        self._saved = None
        dy = difference * (2 * scale / outputs)
        self.model.backward(dy.astype(difference.dtype, copy=False))


Task = Regression
