"""A trained model, read back for use."""

from __future__ import annotations

import os
from dataclasses import dataclass

from byhand.models import GPT
from byhand.training.checkpoint import require_like
from byhand.training.config import RunConfig
from byhand.training.run import Run


@dataclass(frozen=True)
class Trained:
    """A model in evaluation mode, the run it comes from, and after how many steps."""

    model: GPT
    config: RunConfig
    step: int


def load(
    folder: str | os.PathLike[str],
    which: str = "best",
    precision: str | None = None,
    device: str = "cpu",
) -> Trained:
    """The `best` or the `last` model of the run in `folder`, in the precision it was trained in or
    in another, on the device "cpu" or "cuda".

    UserError if there is none, or it is damaged or of another configuration.
    """
    run = Run(folder)
    config = run.read_config()
    saved = run.read_checkpoint(which, config)
    weights = saved.group("model")
    model = GPT(config.model, precision=precision or config.training.precision)
    require_like(run.checkpoint_path(which), weights, model.state_dict())
    model.load_state_dict(weights)
    if device != "cpu":
        model.to(device)
    model.eval()
    return Trained(model, config, saved.state["step"])
