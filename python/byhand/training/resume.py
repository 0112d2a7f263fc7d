"""What a user should know when a run is continued otherwise than it began."""

from __future__ import annotations

from typing import TYPE_CHECKING

from byhand.errors import UserError
from byhand.runs.config import RunConfig
from byhand.training.setup import schedule_of

if TYPE_CHECKING:
    from byhand.runs.checkpoint import Checkpoint
    from byhand.training.trainer import Trainer


def changes(trainer: Trainer, saved: Checkpoint) -> list[str]:
    """Sentences about what differs from the training so far, after ``trainer.restore(saved)``."""
    run, step = trainer.run_folder, trainer.step
    assert run is not None
    found = []
    if run.config_source != run.config_path:
        found.append(
            f"{run.config_path.name} was missing or damaged: it is written again from "
            f"{run.config_source.name}"
        )
    former = _former_rate(saved, step)
    rate = trainer.schedule(step)
    if former is not None and rate > former and step >= trainer.settings.warmup:
        found.append(
            f"the learning rate rises from {former:.3g} to {rate:.3g}: with --steps "
            f"{trainer.settings.steps} it falls more slowly than it did so far"
        )
    before, now = saved.state.get("backend"), trainer.state()["backend"]
    if isinstance(before, str) and before != now:
        found.append(
            f"the steps up to {step} ran on {before}, the next run on {now}, which rounds "
            "otherwise: the result will not be the same bits as without the change"
        )
    return found


def _former_rate(saved: Checkpoint, step: int) -> float | None:
    """The learning rate of the step before `step`; None if there was none."""
    try:
        settings = RunConfig.from_dict(saved.state.get("config")).training
    except UserError:
        return None
    return schedule_of(settings)(step - 1) if step > 0 else None
