"""Named model sizes, each with training settings that suit it."""

from __future__ import annotations

from dataclasses import dataclass

from byhand.errors import UserError


@dataclass(frozen=True)
class Preset:
    """The size of a GPT and how it is trained unless flags say otherwise."""

    about: str
    layers: int
    heads: int
    width: int
    context: int
    batch: int
    steps: int = 5000
    lr: float = 1e-3
    dropout: float = 0.0
    eval_every: int = 250


PRESETS = {
    "tiny": Preset(
        "0.8 million parameters",
        layers=4, heads=4, width=128, context=64, batch=12, steps=2000,
    ),
    "guide": Preset(
        "10.7 million parameters",
        layers=6, heads=6, width=384, context=64, batch=64, dropout=0.2, eval_every=100,
    ),
    "baby": Preset(
        "10.8 million parameters",
        layers=6, heads=6, width=384, context=256, batch=64, dropout=0.2,
    ),
    "gpt2": Preset(
        "86 million parameters",
        layers=12, heads=12, width=768, context=1024, batch=4, lr=6e-4,
    ),
}  # fmt: skip


def preset(name: str) -> Preset:
    """The preset called `name`; UserError if there is none."""
    if name not in PRESETS:
        raise UserError(f"there is no preset called {name!r}: choose from {', '.join(PRESETS)}")
    return PRESETS[name]
