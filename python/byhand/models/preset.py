"""Named sizes of a model, each with training settings that suit it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """Fields of a model's configuration and of the training settings, unless flags say otherwise.

    The vocabulary's size is left out: it comes from the tokenizer.
    """

    about: str
    model: Mapping[str, Any]
    training: Mapping[str, Any]
