"""When the loss or the gradient of a training step is not finite: which tensor was the first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from byhand import backend
from byhand.backend import Array
from byhand.errors import UserError
from byhand.nn import Dropout, Module
from byhand.tasks.task import Batch, Task

Result = tuple[float, float | None]  # mean loss of a step; its gradient's norm, if measured


class Diverged(UserError):
    """The loss or the gradient is no longer a finite number.

    Attributes:
        reason: the sentence without the step it begins with.
        before: the results of steps made before that one and not read yet.
    """

    def __init__(self, where: str, reason: str, before: Sequence[Result] = ()):
        super().__init__(f"{where}: {reason}")
        self.reason = reason
        self.before = before


def require_finite(
    where: str,
    result: Result,
    task: Task,
    batches: Iterable[Batch],
    masks: int,
    before: Sequence[Result] = (),
) -> None:
    """Diverged unless the result of a step is finite; `where` names the step.

    The step, made from these batches when so many dropout masks had been drawn, must have left the
    weights as they were, which `Optimizer.step` with a `clip_norm` does.
    """
    for what, value in zip(("training loss", "gradient's norm"), result, strict=True):
        if value is not None and not math.isfinite(value):
            with task.model.generator.replay_from(masks):
                why = first_not_finite(task, batches)
            raise Diverged(where, f"the {what} is {value}{why}", before)


def first_not_finite(task: Task, batches: Iterable[Batch]) -> str:
    """Words that name the first tensor that is not finite: of the weights, of the layers' outputs
    for these batches, and of the gradients, from the last layer to the first, as the backward pass
    makes them. "" if all are finite. Runs forward passes, which save nothing.
    """
    parameters = list(task.model.named_parameters())
    for name, p in parameters:
        if how := describe_non_finite(p.value):
            return f", because {name} is not finite ({how})"
    # Without memory for a forward pass the gradients can still be examined.
    with suppress(MemoryError):
        for batch in batches:
            if found := _first_output(task, batch):
                return f", because {found}, though all weights are"
    for name, p in reversed(parameters):
        if p.grad is not None and (how := describe_non_finite(p.grad)):
            return f", because the gradient of {name} is not finite ({how}), though all weights are"
    return ""


def _first_output(task: Task, batch: Batch) -> str:
    """The layer whose output is the first that is not finite in a forward pass, and how."""
    found: list[str] = []

    def see(name: str, y: Any) -> None:
        if not found and (how := describe_non_finite(y)):
            found.append(f"the output of {name} is not finite ({how})")

    with task.model.no_save(), _observed(task.model, see):
        loss = task.loss(task.on_device(batch), 1.0)
    if not found and describe_non_finite(loss):
        # A language model's logits exist only in pieces, inside the kernel that makes the loss.
        found.append("the loss that is computed from the last layer is not finite")
    return "".join(found)


@contextmanager
def _observed(model: Module, see: Callable[[str, Any], None]) -> Iterator[None]:
    """Shows `see` the output of each layer in the `with` block, inner layers first; dropout belongs
    to the layer around it.
    """
    layers = [(n, module) for n, module in model.named_modules() if not isinstance(module, Dropout)]
    before = [(module, module.__dict__.get("forward")) for _, module in layers]

    def shown(name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            y = forward(*args, **kwargs)
            for part in y if isinstance(y, tuple) else (y,):
                see(name or "the model", part)
            return y

        return call

    for name, module in layers:
        module.__dict__["forward"] = shown(name, module.forward)
    try:
        yield
    finally:
        for module, forward in before:
            del module.__dict__["forward"]
            if forward is not None:
                module.__dict__["forward"] = forward


def describe_non_finite(a: Array) -> str:
    """How many numbers are not finite; "" if all are."""
    host = backend.to_numpy(a)
    for what, bad in (("NaN", np.isnan(host)), ("infinite", np.isinf(host))):
        if count := np.count_nonzero(bad):
            return f"{what} in {count} of {host.size} numbers"
    return ""
