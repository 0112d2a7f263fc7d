"""The base of tasks: the checks, loss, backward pass and metrics by which language modelling,
classification, translation and ranking differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from byhand import backend
from byhand.backend import Array
from byhand.nn.module import Module
from byhand.nn.protocol import own_copy, taken
from byhand.ops import check

Batch = Mapping[str, Array]  # named arrays, numpy arrays as a dataset gives them


class Task:
    """The base of tasks.

    Attributes:
        model: the module that is trained.
        unit: what is counted, in the singular: "token", "example", "pair".
        loss_unit: what the loss is measured in, such as "nats per token"; "" if it has no unit.
        metric: of ``metrics``, the one by which the best checkpoint is chosen; lower is better.
    """

    unit = "example"
    loss_unit = ""
    metric = "loss"

    def __init__(self, model: Module):
        if not isinstance(model, Module):
            kind = type(self).__name__
            raise TypeError(f"{kind} takes a model, got {type(model).__name__}")
        self.model = model

    def check(self, batch: Batch) -> None:
        """Raises TypeError, ValueError or IndexError, naming the array, for a batch (of numpy
        arrays) that is invalid. On a GPU this is the only check of the ids.
        """

    def _taken(self, batch: Batch, *names: str) -> list[Array]:
        """The arrays of the batch with these names; arrays of other libraries are taken by
        `backend.from_dlpack`. TypeError unless the batch is a dict of arrays, ValueError naming
        what is missing or is a single number.
        """
        kind = type(self).__name__
        if not isinstance(batch, Mapping):
            example = ", ".join(f"{name!r}: ..." for name in names)
            raise TypeError(
                f"{kind}: a batch must be a dict of arrays, {{{example}}}, "
                f"got {type(batch).__name__}"
            )
        arrays = []
        for name in names:
            if name not in batch:
                has = ", ".join(map(str, batch)) or "nothing"
                raise ValueError(f"{kind}: the batch must have {name!r}, and has {has}")
            array = batch[name]
            if not backend.is_array(array):
                raise check.not_an_array(kind, name, array)
            array = taken(f"{kind}: {name}", array)
            if not array.shape:
                raise check.wrong_shape(kind, name, "(B, ...)", array)
            arrays.append(array)
        return arrays

    def count(self, batch: Batch) -> int:
        """How many units of the batch (numpy arrays) its loss counts; called before the pass."""
        raise NotImplementedError

    def loss(self, batch: Batch, scale: Any) -> Array:
        """The sum of the losses of all units times ``scale``, a 0-d array; ``backward`` adds its
        gradient to the parameters.

        scale: 1 / the count over all batches of a step (and over all ranks), so that the losses
        of several batches add up to the mean over all units: a number, or a 0-d array on the
        model's device.
        """
        raise NotImplementedError

    def backward(self) -> None:
        """The backward pass of the last ``loss``."""
        raise NotImplementedError

    def metrics(self, batch: Batch) -> dict[str, tuple[float, int]]:
        """{name: (sum over the batch, number of units)}, computed without saving anything. Means
        over several batches are sums divided by sums of units.
        """
        count = self.count(batch)
        return {"loss": (float(self.loss(self.on_device(batch), 1.0)), count)}

    def sample(self, rng: np.random.Generator, stop: Any = False) -> str | None:
        """A sample of the model's output to show during training, or None. It may end early once
        ``stop`` is true.
        """
        return None

    def on_device(self, batch: Batch) -> dict[str, Array]:
        """The batch on the device of the model."""
        like = self.model.storage.values
        return {name: backend.to_device_of(array, like) for name, array in batch.items()}


class OutputTask(Task):
    """A task whose loss is a sum that an op computes from the model's output."""

    _saved: tuple[Callable[[Any, Any], Array], Any, Any] | None = None

    def scaled(
        self, loss: Array, backward: Callable[[Any, Any], Array], saved: Any, scale: Any
    ) -> Array:
        """The loss times ``scale``, for ``loss`` to return. ``backward(dloss, saved)`` is the op's
        gradient of the output.
        """
        self._saved = backward, saved, own_copy(scale)
        loss *= scale
        return loss

    def backward(self) -> None:
        if self._saved is None:
            raise RuntimeError(
                f"{type(self).__name__}.backward was called without a loss before it"
            )
        backward, saved, scale = self._saved
        self._saved = None
        self.model.backward(backward(scale, saved))
