"""Refusing before it starts what cannot fit into memory."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from typing import Any

from byhand.errors import UserError
from byhand.nn.summary import weight_bytes


def require_memory(
    config: Any,
    tokens: int,
    copies: int = 1,
    device: str = "cpu",
    recompute: bool = False,
    half: bool = False,
    advice: str = "",
) -> None:
    """UserError if training needs more memory than the device has: for weights, gradients and
    moments, and for what a batch of `tokens` tokens keeps for its backward pass.

    Without this a model that is too large swaps for minutes before it fails. Both numbers are the
    least that is needed, so nothing that fits is refused. Only models with `least_parameters`, or
    with embedding_dim, num_layers and vocabulary_size, are estimated, and activations only where
    the configuration has `saved_activations`.

    Args:
        copies: how many models are in memory at once.
        half: activations are bfloat16, as on a GPU in bf16.
        advice: how to need less for the activations; the end of the sentence.
    """
    C, layers, V = (
        getattr(config, name, 0) for name in ("embedding_dim", "num_layers", "vocabulary_size")
    )
    parameters = 12 * layers * C * C + (V + getattr(config, "context_size", 0)) * C
    if hasattr(config, "least_parameters"):
        parameters = config.least_parameters()
    weights = sum(weight_bytes(parameters, parameters)) * copies
    there = memory_of(device)
    where = "the GPU" if device == "cuda" else "this machine"
    if weights > there:
        raise UserError(
            f"a model of {_short(parameters / 1e9)} billion parameters needs "
            f"{_short(weights / 1e9)} GB of memory to train, and {where} has {_short(there / 1e9)} "
            "GB"
        )
    count = getattr(config, "saved_activations", None)
    activations = 0 if count is None else count(tokens, recompute) * (2 if half else 4)
    if weights + activations > there:
        raise UserError(
            f"a forward pass over {tokens:,} tokens at once needs at least "
            f"{_short(activations / 1e9)} GB of memory for its activations, and {where} has "
            f"{_short(there / 1e9)} GB{advice}"
        )


def memory_of(device: str) -> float:
    """The memory of this machine (or of its container) or of the GPU in bytes; infinity if that
    is not known.
    """
    if device == "cuda":
        import cupy

        return float(cupy.cuda.runtime.memGetInfo()[1])
    limits = [math.inf]
    with suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(ValueError, OSError), open(path, encoding="ascii") as file:
            limits.append(int(file.read()))  # a ValueError for "max", which is no limit
    return min(limits)


def _short(number: float) -> str:
    return f"{number:,.1f}" if number < 10 else f"{number:,.0f}"
