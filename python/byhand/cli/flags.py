"""Flags that several commands share, and the kinds of values that flags take."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable

from byhand import backend
from byhand.config import Config, argument, flag_of
from byhand.errors import UserError
from byhand.runs.run import CHECKPOINTS
from byhand.values import Number, WholeNumber

positive_int = argument(WholeNumber(1))
non_negative_int = argument(WholeNumber(0))
number = argument(Number())


def add_threads(command: argparse._ActionsContainer) -> None:
    command.add_argument(
        "--threads",
        type=positive_int,
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
        help="what matrix products are computed in; bf16 rounds their factors to bfloat16, which "
        f"is faster where the processor has instructions for it (default: {default})",
    )


def as_flags(error: Exception, classes: Iterable[type[Config]]) -> UserError:
    """The error of a configuration of one of these classes, with flags for the names of fields."""
    sentence = str(error)
    for cls in classes:
        sentence = sentence.removeprefix(f"{cls.__name__}: ")
        for name in sorted(cls.__dataclass_fields__, key=len, reverse=True):  # type: ignore[attr-defined]
            sentence = re.sub(rf"(?<![\w-]){name}(?![\w-])", flag_of(cls, name), sentence)
    return UserError(sentence)


def require_memory(config: Config, copies: int = 1) -> None:
    """UserError if the weights, gradients and moments alone need more memory than this machine has;
    `copies` models are in memory at once.

    Without this a model that is too large swaps for minutes before it fails. Only transformers are
    estimated: models with embedding_dim, num_layers and vocabulary_size.
    """
    C, layers, V = (
        getattr(config, name, 0) for name in ("embedding_dim", "num_layers", "vocabulary_size")
    )
    parameters = 12 * layers * C * C + (V + getattr(config, "context_size", 0)) * C
    needed = 16 * parameters * copies
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise UserError(
            f"a model of {parameters / 1e9:,.1f} billion parameters needs {needed / 1e9:,.0f} GB "
            f"of memory to train, and this machine has {there / 1e9:,.0f} GB"
        )


def require_device(device: str) -> None:
    """UserError with the reason if the device cannot be used."""
    reason = backend.cuda_reason() if device == "cuda" else ""
    if reason:
        raise UserError(f"--device cuda cannot be used: {reason}")


def use_threads(threads: int | None) -> None:
    """Set the number of threads. UserError if that is not possible or there is no CPU back end,
    which is checked here before any work begins.
    """
    try:
        backend.cpu()
        if threads is not None:
            backend.set_num_threads(threads)
    except (RuntimeError, ValueError) as error:
        raise UserError(str(error)) from None
