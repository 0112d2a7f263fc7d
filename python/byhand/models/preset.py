"""Named sizes of a model, each with training settings that suit it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from byhand import registry
from byhand.errors import UserError, suggestion


@dataclass(frozen=True)
class Preset:
    """Values for fields of a model's configuration and of the training settings; flags override it.

    The vocabulary's size is left out: it comes from the tokenizer.
    """

    about: str
    model: Mapping[str, Any]
    training: Mapping[str, Any]


def find(kind: str, name: str) -> Preset:
    """The preset called `name` of the models of this kind; UserError if there is none."""
    presets: Mapping[str, Preset] = registry.find("models", kind).PRESETS
    if name not in presets:
        near = suggestion(name, presets)
        known = ", ".join(presets)
        raise UserError(f"there is no preset called {name!r}{near}: choose from {known}")
    return presets[name]
