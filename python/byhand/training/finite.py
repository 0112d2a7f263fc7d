"""When the loss or the gradient of a training step is not finite: which tensor was the first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from byhand import backend
from byhand.backend import Array
from byhand.errors import UserError
from byhand.nn.layers import Dropout

if TYPE_CHECKING:
    from byhand.models.gpt import GPT

Batch = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]  # ids and targets, each (B, T)
Result = tuple[float, float | None]  # mean loss of a step; its gradient's norm, if measured


class Diverged(UserError):
    """The loss or the gradient is no longer a finite number.

    Attributes:
        reason: the sentence without the step it begins with.
        before: what the steps gave that were made before that one and not read yet.
    """

    def __init__(self, where: str, reason: str, before: Sequence[Result] = ()):
        super().__init__(f"{where}: {reason}")
        self.reason = reason
        self.before = before


def require_finite(
    where: str,
    result: Result,
    model: GPT,
    batches: Iterable[Batch],
    masks: int,
    before: Sequence[Result] = (),
) -> None:
    """Diverged unless what a step gave is finite; `where` stands for the step.

    The step, made from these batches when so many dropout masks had been drawn, must have left the
    weights as they were, which `AdamW.step` with a `clip_norm` does.
    """
    for what, value in zip(("training loss", "gradient's norm"), result, strict=True):
        if value is not None and not math.isfinite(value):
            with model.generator.again_from(masks):
                why = first_not_finite(model, batches)
            raise Diverged(where, f"the {what} is {value}{why}", before)


def first_not_finite(model: GPT, batches: Iterable[Batch]) -> str:
    """Words that name the first tensor that is not finite: of the weights, of what the layers give
    for these batches, and of the gradients, from the last layer to the first, as the backward pass
    makes them. "" if all are finite. Runs forward passes, which save nothing.
    """
    parameters = list(model.named_parameters())
    for name, p in parameters:
        if how := _damage(p.value):
            return f", because {name} is not finite ({how})"
    # Without memory for a forward pass there is still something to say.
    with suppress(MemoryError):
        for batch in batches:
            if found := _first_output(model, batch):
                return f", because the output of {found}, though all weights are"
    for name, p in reversed(parameters):
        if how := _damage(p.grad):
            return f", because the gradient of {name} is not finite ({how}), though all weights are"
    return ""


def _first_output(model: GPT, batch: Batch) -> str:
    """The layer whose output is the first that is not finite in a forward pass, and how."""
    found: list[str] = []

    def see(name: str, y: Any) -> None:
        if not found and (how := _damage(y)):
            found.append(f"{name} is not finite ({how})")

    with model.no_save(), _seen(model, see):
        loss = model.loss(*(backend.to_device_of(a, model.arena.values) for a in batch))
    if not found and _damage(loss):
        found.append("head is not finite")  # which exists only in pieces
    return "".join(found)


@contextmanager
def _seen(model: GPT, see: Callable[[str, Any], None]) -> Iterator[None]:
    """Shows `see` what each layer gives in the `with` block, inner layers first; dropout belongs to
    the layer around it.
    """
    layers = [(n, module) for n, module in model.named_modules() if not isinstance(module, Dropout)]
    before = [(module, module.__dict__.get("forward")) for _, module in layers]

    def shown(name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            y = forward(*args, **kwargs)
            see(name, y)
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


def _damage(a: Array) -> str:
    """How many numbers are not finite; "" if all are."""
    host = backend.to_numpy(a)
    for what, bad in (("NaN", np.isnan(host)), ("infinite", np.isinf(host))):
        if count := np.count_nonzero(bad):
            return f"{what} in {count} of {host.size} numbers"
    return ""
