"""Runs and checkpoints in format 1, which byhand 0.1 wrote, converted to the present format.

Format 1 had only one kind of model, a GPT whose parameter names had no prefix `decoder.`, and kept
the moments of AdamW as two flat arrays. Its config.json contained the tokenizer and did not name
the kind of the model or the task.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from byhand.errors import UserError
from byhand.text.tokenizer import tokenizer_of

Tensor = npt.NDArray[Any]

# The order of the parameters in the model; the flat arrays had matrices first, then vectors.
_OUTSIDE = {"tokens": 0, "positions": 1, "blocks": 2, "norm": 3, "head": 4}
_IN_BLOCK = ("norm1", "attention.qkv", "attention.project", "norm2", "ffn.up", "ffn.down")
_NAME = re.compile(
    r"(tokens|positions|norm|head)\.(weight|bias)"
    rf"|blocks\.(\d+)\.({'|'.join(map(re.escape, _IN_BLOCK))})\.(weight|bias)"
)


def upgrade_config(data: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A config.json of format 1 as one of format 2, and the content of its tokenizer.json.

    UserError if `data` is incomplete.
    """
    for name in ("model", "training", "corpus", "tokenizer"):
        if not isinstance(data.get(name), dict):
            raise UserError(f"{name!r} is missing")
    tokenizer = tokenizer_of(data["tokenizer"])
    config = {
        "format": 2,
        "kind": "gpt",
        "task": "language_model",
        "model": dict(data["model"]),
        "training": dict(data["training"]),
        "data": {"kind": "corpus", **data["corpus"]},
        "tokenizer": {"kind": tokenizer.kind, "sha256": tokenizer.sha256()},
    }
    return config, tokenizer.to_dict()


def upgrade_checkpoint(
    tensors: Mapping[str, Tensor], state: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the state of a checkpoint of format 1 as those of one of format 2.

    UserError if they are not what format 1 had.
    """
    start = "model."
    model = {k[len(start) :]: v for k, v in tensors.items() if k.startswith(start)}
    for name in model:
        if not _NAME.fullmatch(name):
            raise UserError(f"a checkpoint of format 1 has no tensor model.{name}")
    upgraded = {start + _renamed(name): value for name, value in model.items()}
    order = sorted(model, key=lambda name: (model[name].ndim < 2, _place(name)))
    total = sum(value.size for value in model.values())
    for slot in ("m", "v"):
        flat = tensors.get(f"optimizer.{slot}")
        if flat is None:
            raise UserError(f"the tensor optimizer.{slot} is missing")
        if flat.shape != (total,):
            raise UserError(
                f"optimizer.{slot} has shape {flat.shape}, but the model has {total} parameters"
            )
        at = 0
        for name in order:
            value = model[name]
            piece = flat[at : at + value.size].reshape(value.shape)
            upgraded[f"optimizer.{slot}.{_renamed(name)}"] = piece
            at += value.size
    extra = tensors.keys() - {start + name for name in model} - {"optimizer.m", "optimizer.v"}
    if extra:
        raise UserError(f"a checkpoint of format 1 has no tensor {min(extra)}")
    if not isinstance(state.get("config"), dict):
        raise UserError("its configuration is missing")
    return upgraded, {**state, "config": upgrade_config(state["config"])[0]}


def _renamed(name: str) -> str:
    return name if name.startswith("head.") else f"decoder.{name}"


def _place(name: str) -> tuple[int, ...]:
    """A sort key: the position of a parameter in the model of format 1."""
    outside, _, rest = name.partition(".")
    last = int(name.endswith(".bias"))
    if outside != "blocks":
        return (_OUTSIDE[outside], last)
    number, _, inner = rest.partition(".")
    return (_OUTSIDE["blocks"], int(number), _IN_BLOCK.index(inner.rpartition(".")[0]), last)
