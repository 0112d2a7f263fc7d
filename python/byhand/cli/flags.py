"""Flags that several commands share, and the kinds of values flags take."""

from __future__ import annotations

import argparse
import math
import os
from typing import TYPE_CHECKING

from byhand import backend
from byhand.errors import UserError
from byhand.training.run import CHECKPOINTS

if TYPE_CHECKING:
    from byhand.models import GPTConfig


def count(text: str) -> int:
    """A whole number of at least 1."""
    return _whole(text, 1)


def count_or_none(text: str) -> int:
    """A whole number of at least 0."""
    return _whole(text, 0)


def number(text: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r}")
    return value


def _whole(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from None
    if value < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}, not {value}")
    return value


def add_threads(command: argparse._ActionsContainer) -> None:
    command.add_argument(
        "--threads",
        type=count,
        metavar="N",
        help="CPU threads to use (default: OMP_NUM_THREADS if set, else every CPU this process may "
        "use); the results are the same for any number",
    )


def add_run(command: argparse.ArgumentParser) -> None:
    command.add_argument("run_folder", metavar="DIR", help="the folder that `byhand train` wrote")
    add_checkpoint(command, "best")


def add_checkpoint(command: argparse._ActionsContainer, default: str) -> None:
    command.add_argument(
        "--checkpoint",
        choices=CHECKPOINTS,
        default=default,
        help="best: the weights with the lowest validation loss; last: the newest "
        f"(default: {default})",
    )


def add_device(command: argparse._ActionsContainer) -> None:
    command.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="where to compute; a run may change it when it is resumed, and a model trained on one "
        "can be used on the other (default: cpu)",
    )


def add_precision(command: argparse._ActionsContainer, default: str) -> None:
    command.add_argument(
        "--precision",
        choices=backend.PRECISIONS,
        help="what products are computed in; bf16 rounds their factors to bfloat16, and is faster "
        f"where the processor has instructions for it (default: {default})",
    )


def require_memory(config: GPTConfig, copies: int = 1) -> None:
    """UserError if the weights, gradients and moments alone would not fit this machine; `copies` of
    the model live at once.

    Asking first is kinder than an allocation that fails after minutes of swapping.
    """
    C, V = config.embedding_dim, config.vocabulary_size
    parameters = 12 * config.num_layers * C * C + (V + config.context_size) * C
    needed = 16 * parameters * copies
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise UserError(
            f"a model of {parameters / 1e9:,.1f} billion parameters needs {needed / 1e9:,.0f} GB "
            f"of memory to train, and this machine has {there / 1e9:,.0f} GB"
        )


def require_device(device: str) -> None:
    """UserError with the reason if there is no such device."""
    reason = backend.cuda_reason() if device == "cuda" else ""
    if reason:
        raise UserError(f"--device cuda cannot be used: {reason}")


def use_threads(threads: int | None) -> None:
    """Set the number of threads, and find the back end now rather than in mid-work."""
    try:
        backend.cpu()
        if threads is not None:
            backend.set_num_threads(threads)
    except (RuntimeError, ValueError) as error:
        raise UserError(str(error)) from None
