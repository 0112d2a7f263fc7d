"""The weights of a run without the rest of its training."""

from __future__ import annotations

import os
from contextlib import suppress

from byhand.errors import UserError
from byhand.runs import checkpoint
from byhand.runs.run import Run

_WEIGHTS = "model."  # the tensors of a checkpoint that are exported begin with this


def export(folder: str | os.PathLike[str], to: str | os.PathLike[str], which: str = "best") -> int:
    """Write the weights of the run in `folder` to a new folder `to`, which has config.json,
    tokenizer.json and best.safetensors; returns how many numbers it has.

    It is a run that can be loaded, evaluated and trained from, but not resumed: the state of the
    optimizer, two thirds of a checkpoint, and the log are left out.

    Args:
        which: the checkpoint to take, "best" or "last".

    UserError if there is no such run or it is damaged, and if `to` holds a run already.
    """
    source, made = Run(folder), Run(to)
    config, tokenizer = source.read_config(), source.read_tokenizer()
    saved = source.read_checkpoint(which, config)
    made.require_new(resumable=False)
    weights = {name: t for name, t in saved.tensors.items() if name.startswith(_WEIGHTS)}
    state = {"step": saved.state["step"], "config": config.to_dict()}
    new_folders = [path for path in (made.folder, *made.folder.parents) if not path.exists()]
    try:
        made.folder.mkdir(parents=True, exist_ok=True)
        made.write_config(config, tokenizer)
        made.save_checkpoint("best", checkpoint.pack(weights, state))
    except BaseException:
        for path in made.files():
            path.unlink(missing_ok=True)
        for path in new_folders:
            with suppress(OSError):  # it was not made yet, or has something else in it
                path.rmdir()
        raise
    return sum(tensor.size for tensor in weights.values())


def require_resumable(run: Run) -> None:
    """UserError if the run was exported, so that it cannot be resumed."""
    if run.checkpoint_path("last").exists():
        return
    if "optimizer_step" not in run.read_checkpoint("best", run.read_config()).state:
        raise UserError(
            f"{run.folder} has exported weights without the optimizer's state, so it cannot be "
            "resumed: start a new run from them with --from"
        )
