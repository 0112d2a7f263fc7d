"""The exponential moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from byhand import backend
from byhand.backend import Array
from byhand.nn.module import Module
from byhand.optim.optimizer import require_number
from byhand.optim.state import (
    by_path,
    require_arrays,
    require_count,
    require_model,
    require_unmoved,
)


class EMA:
    """The exponential moving average of the trained parameters of a model (Polyak & Juditsky, 1992;
    in this form Tarvainen & Valpola, 2017, section 2):

        average = decay average + (1 - decay) w

    It begins with the present weights. Call `update` after each step of the optimizer, and evaluate
    inside `applied`:

        ema = optim.EMA(model, 0.999)
        ...
        with ema.applied():
            training.evaluate(task, batches)

    Args:
        model: a built model, not a part of a larger one. After ``to`` or ``freeze`` a new EMA must
            be made.
        decay: in [0, 1); 0.999 averages over about 1,000 steps.

    Raises TypeError for anything but a Module, RuntimeError for one that is not built, ValueError
    for a part of a larger model or a decay out of range.
    """

    def __init__(self, model: Module, decay: float = 0.999):
        require_model("EMA", model)
        self.decay = decay
        self.model = model
        self.updates = 0
        self._storage = model.storage
        self._version = self._storage.version
        self._applied = False
        values = self._values
        self._average = backend.empty(values.shape, values)
        self._average[...] = values
        self._work = backend.empty(values.shape, values)

    @property
    def decay(self) -> float:
        """May be set between updates."""
        return self._decay

    @decay.setter
    def decay(self, value: float) -> None:
        number = require_number("EMA", "decay", value)
        if not 0 <= number < 1:
            raise ValueError(f"EMA: decay must be in [0, 1), got {value!r}")
        self._decay = number

    @property
    def _values(self) -> Array:
        return self._storage.values[: self._storage.grads.size]

    def _check(self, where: str) -> None:
        require_unmoved("EMA", "EMA", self.model, self._storage, self._version)
        if self._applied:
            raise RuntimeError(f"EMA.{where}: the averaged weights are in the model now")

    def update(self) -> None:
        """Takes the present weights into the average. RuntimeError inside `applied`, and when the
        model's parameters were moved.
        """
        self._check("update")
        xp = backend.xp(self._average)
        xp.subtract(self._values, self._average, out=self._work)
        self._work *= 1 - self.decay
        self._average += self._work
        self.updates += 1

    @contextmanager
    def applied(self) -> Iterator[Module]:
        """The model with the averaged weights, for as long as the ``with`` block lasts; then it has
        its own again, bit for bit, also after ``to`` or ``freeze``. RuntimeError inside another
        `applied`, and at the end of a block that has changed the weights, which are lost.
        """
        self._check("applied")
        self._work[...] = self._values
        own = by_path(self._work, params := [p for p in self._storage.params if p.trainable])
        self._values[...] = self._average
        self._storage.refresh()
        self._applied = True
        changed = False
        try:
            yield self.model
            unmoved = self._storage.valid and self._storage.version == self._version
            xp = backend.xp(self._average)
            changed = unmoved and not xp.array_equal(self._values, self._average, equal_nan=True)
        finally:
            for p, value in zip(params, own.values(), strict=True):
                p.value[...] = backend.to_device_of(value, p.value)
            self.model.storage.refresh()
            self._applied = False
        if changed:
            raise RuntimeError(
                "EMA.applied: the averaged weights were changed inside the with block, and the "
                "change is lost: train and load weights outside it"
            )

    def _views(self) -> dict[str, Array]:
        return by_path(self._average, (p for p in self._storage.params if p.trainable))

    def state_dict(self) -> dict[str, Any]:
        """{"updates": their number, "average": {path: array of the parameter's shape}}; the arrays
        are views: copy them to keep them.
        """
        return {"updates": self.updates, "average": self._views()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` gave. ValueError naming what is missing, unknown or of
        another shape; in that case nothing is changed.
        """
        where, own = "EMA.load_state_dict", self._views()
        if not isinstance(state, Mapping):
            raise TypeError(f"{where} takes what state_dict gave, got {type(state).__name__}")
        for name in ("updates", "average"):
            if name not in state:
                raise ValueError(f"{where}: {name} is missing")
        updates = require_count(where, "updates", state["updates"])
        average = require_arrays(where, "average", own, state["average"])
        for name, view in own.items():
            view[...] = backend.to_device_of(average[name], view)
        self.updates = updates

    def __repr__(self) -> str:
        return f"EMA(decay={self.decay:g}) after {self.updates} updates"
