"""Callbacks: methods that a trainer calls at the events of a training step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from byhand.training.trainer import Trainer


class Callback:
    """The six events of a training step, in their order, and the evaluation; override the methods
    you need.

    ``on_load``, ``on_forward``, ``on_loss`` and ``on_backward`` are called, in this order, for each
    batch of a step, the others once per step. On a GPU a step is launched as a whole, so the loss
    is None in ``on_loss`` and known in ``on_step``, which is called for several steps in a row.
    """

    def on_load(self, trainer: Trainer, batch: Any) -> None:
        """A batch was loaded: named arrays."""

    def on_forward(self, trainer: Trainer) -> None:
        """The forward pass is done."""

    def on_loss(self, trainer: Trainer, loss: float | None) -> None:
        """The batch's share of the step's mean loss is known."""

    def on_backward(self, trainer: Trainer) -> None:
        """The backward pass is done: its gradients are added."""

    def on_step(self, trainer: Trainer, step: int, loss: float, norm: float | None) -> None:
        """Update number ``step`` of the weights is done; ``norm`` is the gradient's norm, or None
        without clipping.
        """

    def on_repeat(self, trainer: Trainer, step: int) -> None:
        """The gradients are zero again, and the next step may begin."""

    def on_evaluate(self, trainer: Trainer, step: int, metrics: dict[str, float]) -> None:
        """An evaluation is done."""


class Emit:
    """Passes a step's events on to the callbacks."""

    def __init__(self, trainer: Trainer):
        self._trainer = trainer

    def forward(self) -> None:
        for callback in self._trainer.callbacks:
            callback.on_forward(self._trainer)

    def loss(self, loss: float | None) -> None:
        for callback in self._trainer.callbacks:
            callback.on_loss(self._trainer, loss)

    def backward(self) -> None:
        for callback in self._trainer.callbacks:
            callback.on_backward(self._trainer)
