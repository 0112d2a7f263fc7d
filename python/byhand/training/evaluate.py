"""The loss on text the model does not learn from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from byhand import backend
from byhand.data import windows_side_by_side
from byhand.generation.generate import inference

if TYPE_CHECKING:
    from byhand.models.gpt import GPT
    from byhand.training.interrupt import StopRequest


def mean_loss(
    model: GPT,
    ids: npt.NDArray[np.integer],
    context: int,
    batch_size: int,
    batches: int | None = None,
    stop: StopRequest | None = None,
) -> float | None:
    """The mean cross-entropy per token of `ids` (n,), without dropout, in nats.

    The text is cut into windows laid end to end, so every token is predicted once, from at most
    `context - 1` tokens before its own window position; with `batches`, only about so many batches,
    spread evenly over the text and the same ones each time. None if `stop` was requested meanwhile.
    """
    total = 0.0
    predicted = 0
    limit = None if batches is None else batches * batch_size
    with inference(model):
        for x, y in windows_side_by_side(ids, context, batch_size, limit):
            if stop:
                return None
            there = (backend.to_device_of(a, model.arena.values) for a in (x, y))
            total += float(model.loss(*there)) * y.size
            predicted += y.size
    return total / predicted
