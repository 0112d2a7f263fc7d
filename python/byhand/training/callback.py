"""Functions of the user's that a trainer calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from byhand.training.trainer import Trainer


class Callback:
    """The six events of a training step, in their order, and the evaluation; override what you
    need.

    ``on_load``, ``on_forward``, ``on_loss`` and ``on_backward`` come for every batch of a step, the
    others once. In a step on a GPU, which is launched whole, the loss is None in ``on_loss`` and
    known in ``on_step``, which comes for a few steps together.
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
        """The weights were updated for the step-th time; norm is the gradient's, if it is clipped
        or measured.
        """

    def on_repeat(self, trainer: Trainer, step: int) -> None:
        """The gradients are zero again, and the next step may begin."""

    def on_evaluate(self, trainer: Trainer, step: int, metrics: dict[str, float]) -> None:
        """An evaluation is done."""
