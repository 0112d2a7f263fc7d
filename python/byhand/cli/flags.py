"""Flags that several commands share, and the kinds of values that flags take."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable

from byhand import backend
from byhand.config import Config, argument, flag_of
from byhand.errors import UserError
from byhand.runs.run import CHECKPOINTS
from byhand.values import Number, WholeNumber

positive_int = argument(WholeNumber(1))
non_negative_int = argument(WholeNumber(0))
non_negative = argument(Number("at least 0", lambda x: x >= 0))


def text(value: str) -> str:
    """The `type=` of an argument that takes a text or a path. An empty one is refused: it is
    usually a shell variable that is not set, and must not silently mean the default.
    """
    if not value:
        raise argparse.ArgumentTypeError("must not be empty (is a shell variable not set?)")
    return value


def add_threads(command: argparse._ActionsContainer) -> None:
    command.add_argument(
        "--threads",
        type=positive_int,
        metavar="N",
        help="CPU threads to use (default: OMP_NUM_THREADS if set, else every CPU this process may "
        "use); the results are the same for any number",
    )


def add_run(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "run_folder", type=text, metavar="DIR", help="the folder that `byhand train` wrote"
    )
    add_checkpoint(command, "best")


def add_checkpoint(
    command: argparse._ActionsContainer, default: str | None, shown: str = ""
) -> None:
    command.add_argument(
        "--checkpoint",
        choices=CHECKPOINTS,
        default=default,
        help="best: the weights with the lowest validation loss; last: the newest "
        f"(default: {shown or default})",
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


def require_device(device: str) -> None:
    """UserError with the reason if the device cannot be used."""
    reason = backend.cuda_reason() if device == "cuda" else ""
    if reason:
        raise UserError(f"--device cuda cannot be used: {reason}")


def use_threads(threads: int | None, start: bool = True) -> None:
    """Set the number of threads, and start them: where that is refused it fails now and not after
    a run's folder was made. UserError if that is not possible or there is no CPU back end.
    """
    import numpy as np

    from byhand.ops import embedding

    try:
        backend.cpu()
        if threads is not None:
            backend.set_num_threads(threads)
    except (RuntimeError, ValueError) as error:
        raise UserError(str(error).replace("the number of threads", "--threads")) from None
    if start:
        # Enough work for every thread.
        embedding.forward(np.zeros(1024, np.int64), np.zeros((1, 1024), np.float32))
