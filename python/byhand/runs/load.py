"""A trained model, read back for use."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from byhand import registry
from byhand.errors import UserError
from byhand.runs.checkpoint import require_like
from byhand.runs.config import RunConfig
from byhand.runs.run import Run

if TYPE_CHECKING:
    from byhand.nn.module import Module
    from byhand.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Trained:
    """A model in inference mode, its tokenizer, the run it comes from, and after how many steps.

    The tokenizer is None if the model reads no text.
    """

    model: Module
    tokenizer: Tokenizer | None
    config: RunConfig
    step: int


def load(
    folder: str | os.PathLike[str],
    which: str = "best",
    precision: str | None = None,
    device: str = "cpu",
) -> Any:
    """The model that a training run left in `folder`, of any kind, in inference mode, with its
    tokenizer as `model.tokenizer`:

        model = byhand.load("runs/first")
        for text in byhand.generation.stream(model, "The ", max_new_tokens=50, do_sample=True):
            print(text, end="")

    `model.train()` ends inference mode, so that the model can be trained further.

    Args:
        folder: what `byhand train --out` named.
        which: "best" (the lowest validation loss) or "last" (the newest).
        precision: "float32" or "bf16"; None is the precision of the training.
        device: "cpu" or "cuda".

    UserError if there is no such run, or it is damaged or of another configuration.
    """
    try:
        return load_trained(folder, which, precision, device).model
    except UserError as error:
        # Here the checkpoint is chosen by an argument, not by a flag.
        raise UserError(str(error).replace("--checkpoint ", "which=")) from None


def load_trained(
    folder: str | os.PathLike[str],
    which: str = "best",
    precision: str | None = None,
    device: str = "cpu",
) -> Trained:
    """`load`, with the run's configuration and the step of the checkpoint."""
    run = Run(folder)
    config = run.read_config()
    tokenizer = run.read_tokenizer()
    saved = run.read_checkpoint(which, config)
    weights = saved.group("model")
    model = registry.find("models", config.kind).Model(
        config.model, precision=precision or config.training.precision, draw=False
    )
    require_like(run.checkpoint_path(which), weights, model.state_dict())
    model.load_state_dict(weights)
    if device != "cpu":
        model.to(device)
    model.inference()
    model.tokenizer = tokenizer
    return Trained(model, tokenizer, config, saved.state["step"])
