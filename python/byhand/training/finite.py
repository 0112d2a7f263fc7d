"""Finding the first tensor that is not finite when the loss or gradient of a step is not."""

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

OF_A_BATCH = "of a batch is not finite"  # in a message: the data are the cause, not the training
Result = tuple[float, float | None]  # mean loss of a step; its gradient's norm, if measured


class Diverged(UserError):
    """The loss or the gradient is no longer a finite number.

    Attributes:
        reason: the message without the step that it begins with.
        before: the results of earlier steps that were not read yet.
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
    """Raises Diverged unless the result of a step is finite; `where` names the step.

    `batches` are those of the step, `masks` is the number of dropout masks drawn before it. The
    step must have left the weights unchanged, as `Optimizer.step` with a `clip_norm` does.
    """
    for what, value in zip(("training loss", "gradient's norm"), result, strict=True):
        if value is not None and not math.isfinite(value):
            with task.model.generator.replay_from(masks):
                why = first_not_finite(task, batches)
            raise Diverged(where, f"the {what} is {value}{why}", before)


def first_not_finite(task: Task, batches: Iterable[Batch]) -> str:
    """A phrase that names the first tensor that is not finite; "" if all are finite.

    The order is: the weights; the arrays of these batches; the layers' outputs for them; the
    gradients in the order of the backward pass, from the last layer to the first. Runs forward
    passes that save nothing.
    """
    parameters = list(task.model.named_parameters())
    for name, p in parameters:
        if how := describe_non_finite(p.value):
            return f", because {name} is not finite ({how})"
    # Without memory for a forward pass the gradients can still be examined.
    with suppress(MemoryError):
        for batch in batches:
            for name, array in batch.items():
                if array.dtype.kind == "f" and (how := describe_non_finite(array)):
                    return f", because {name} {OF_A_BATCH} ({how})"
            if found := _first_output(task, batch):
                return f", because {found}, though all weights are"
    for name, p in reversed(parameters):
        if p.grad is not None and (how := describe_non_finite(p.grad)):
            return f", because the gradient of {name} is not finite ({how}), though all weights are"
    return ""


def _first_output(task: Task, batch: Batch) -> str:
    """A phrase that names the first layer whose output is not finite; "" if all are finite."""
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
    """Calls `see(name, output)` for each layer that runs in the `with` block, inner layers first.
    Dropout layers are skipped: they count as a part of the layer around them.
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
    """A phrase that says how many numbers are NaN or infinite; "" if all are finite."""
    host = backend.to_numpy(a)
    for what, bad in (("NaN", np.isnan(host)), ("infinite", np.isinf(host))):
        if count := np.count_nonzero(bad):
            return f"{what} in {count} of {host.size} numbers"
    return ""
