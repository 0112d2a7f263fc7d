"""One checkpoint is one safetensors file: every tensor, and in its metadata everything else.

Being one file, it is replaced by one rename. Tensors of a run:

    model.<name>                        each parameter and each buffer, by its name in the model
    optimizer.<slot>.<parameter name>   what the optimizer keeps for it, such as AdamW's m and v

Metadata: `format`, `version`, `state` (JSON: the step, the random states, the configuration) and
`sha256` over the state and the tensors, so that a single changed byte is noticed. Files of version
1 are read too (`legacy`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from byhand.errors import UserError
from byhand.runs.legacy import upgrade_checkpoint
from byhand.values import Number, Values, WholeNumber

FORMAT = "byhand checkpoint"
VERSION = 2
READABLE = ("1", "2")

Tensors = Mapping[str, npt.NDArray[Any]]

# The numbers in the state of a training run; -1 means never.
_COUNTS: dict[str, Values] = {
    "seconds": Number("at least 0", lambda x: x >= 0),
    "optimizer_step": WholeNumber(0),
    "step": WholeNumber(0),
    "evaluated": WholeNumber(-1),
    "best_step": WholeNumber(-1),
}


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file; `state` is plain JSON data."""

    tensors: dict[str, npt.NDArray[Any]]
    state: dict[str, Any]

    def group(self, prefix: str) -> dict[str, npt.NDArray[Any]]:
        """The tensors called `prefix.<name>`, as {name: tensor}: `group("optimizer.m")` has the
        first moments by parameter name.
        """
        start = f"{prefix}."
        return {k[len(start) :]: v for k, v in self.tensors.items() if k.startswith(start)}


def pack(tensors: Tensors, state: Mapping[str, Any]) -> bytes:
    """The bytes of a checkpoint file."""
    import safetensors.numpy

    contiguous = {name: np.require(t, requirements="C") for name, t in tensors.items()}
    text = json.dumps(state, sort_keys=True, allow_nan=False)
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "state": text,
        "sha256": _digest(contiguous, text),
    }
    return safetensors.numpy.save(contiguous, metadata)


def read(path: Path) -> Checkpoint:
    """The checkpoint at `path`, of version 1 or 2. UserError if it is missing, truncated, altered
    or not a checkpoint.
    """
    import safetensors

    if not path.is_file():
        raise UserError(f"there is no checkpoint at {path}")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            _require_ours(path, metadata)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except UserError:
        raise
    # safetensors has its own exception for a bad file; for tensors that NumPy cannot hold, NumPy's.
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path} is not a valid safetensors file, but truncated or in another format ({error})"
        ) from None
    text = metadata.get("state", "")
    if metadata.get("sha256") != _digest(tensors, text):
        raise UserError(f"{path} is damaged: its content does not match its own SHA-256")
    try:
        state = json.loads(text)
    except (ValueError, RecursionError):
        state = None
    if not isinstance(state, dict):
        raise UserError(f"{path} is damaged: its state is not JSON")
    if metadata["version"] == "1":
        try:
            tensors, state = upgrade_checkpoint(tensors, state)
        except UserError as error:
            raise UserError(f"{path} is incomplete or has something unknown: {error}") from None
    return Checkpoint(tensors, state)


def step_in(path: Path) -> int | None:
    """The step of the checkpoint at `path`, read from its metadata without its tensors, so not
    verified; None if it cannot be read.
    """
    import safetensors

    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            step = json.loads((file.metadata() or {})["state"])["step"]
    except (OSError, safetensors.SafetensorError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return step if is_step(step) else None


def is_step(value: object) -> bool:
    """Whether this is a number of steps."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def require_like(path: Path | str, tensors: Tensors, expected: Tensors) -> None:
    """UserError unless `tensors` has the names, shapes and dtypes of `expected`. It says whether
    the model, the optimizer, or only the frozen parameters are others.
    """
    missing = sorted(expected.keys() - tensors.keys())
    extra = sorted(tensors.keys() - expected.keys())
    if (missing or extra) and all(name.startswith("optimizer.") for name in missing + extra):
        saved, own = _slots(tensors), _slots(expected)
        if saved != own:
            raise UserError(
                f"{path} is of another optimizer: it has the state {_listed(saved)}, where "
                f"{_listed(own)} is expected"
            )
        name = (extra or missing)[0].split(".", 2)[2]
        then, now = ("trained", "frozen") if extra else ("frozen", "trained")
        raise UserError(
            f"{path} was saved when {name} was {then}, and now it is {now}: freeze the same "
            "parameters before the run is resumed"
        )
    if missing:
        raise UserError(f"{path} is of another model: it lacks the tensor {missing[0]}")
    if extra:
        raise UserError(
            f"{path} is of another model: it has the tensor {extra[0]}, which is unknown"
        )
    for name, tensor in tensors.items():
        wanted = expected[name]
        if (tensor.shape, tensor.dtype) != (wanted.shape, wanted.dtype):
            raise UserError(
                f"{path} is of another model: {name} has shape {tensor.shape} and type "
                f"{tensor.dtype}, where {wanted.shape} and {wanted.dtype} are expected"
            )


def first_not_finite(tensors: Tensors) -> str | None:
    """The name of the first tensor that has NaN or infinite numbers, as the model has it; None if
    there is none.
    """
    for name, tensor in tensors.items():
        if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
            return name.removeprefix("model.")
    return None


def require_state(path: Path | str, state: Mapping[str, Any]) -> None:
    """UserError unless the numbers in the state of a training run are possible ones."""
    generator = state.get("generator")
    if not isinstance(generator, dict):
        raise UserError(f"{path} is incomplete: it lacks the state of the dropout generator")
    values = {"generator seed": generator.get("seed"), "generator count": generator.get("count")}
    values |= {name: state.get(name) for name in _COUNTS}
    for name, value in values.items():
        try:
            _COUNTS.get(name, WholeNumber(0)).accept(value)
        except (TypeError, ValueError) as error:
            raise UserError(f"{path} is incomplete: its {name} must be {error}") from None


def _slots(tensors: Tensors) -> list[str]:
    """What the optimizer keeps for each parameter, such as "m" and "v"."""
    return sorted({name.split(".")[1] for name in tensors if name.startswith("optimizer.")})


def _listed(names: list[str]) -> str:
    return " and ".join(names) or "nothing"


def _require_ours(path: Path, metadata: Mapping[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path} is a safetensors file, but not a checkpoint of byhand")
    version = metadata.get("version", "")
    if version not in READABLE:
        raise UserError(
            f"{path} is a checkpoint of format {version}, and this byhand reads the formats "
            f"{' and '.join(READABLE)}: it was written by another version"
        )


def _digest(tensors: Tensors, state: str) -> str:
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype.str} {tensor.shape}\n".encode())
        digest.update(tensor.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
