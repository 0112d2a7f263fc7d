"""The numbers that decide how a model is trained."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from byhand.backend import PRECISIONS
from byhand.errors import UserError


@dataclass(frozen=True)
class TrainingSettings:
    """Everything about a training run but the model and the text; UserError if it makes no sense.

    A step is one update of the weights, from `batch_size * accumulate` windows. The optimizer is
    AdamW (Loshchilov and Hutter 2019), the learning rate rises linearly over `warmup` steps to `lr`
    and falls along half a cosine to `min_lr` at the last step (Loshchilov and Hutter 2017).
    """

    steps: int = 2000
    batch_size: int = 12
    accumulate: int = 1
    lr: float = 1e-3
    min_lr: float = 1e-4
    warmup: int = 100
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.1
    clip: float = 1.0  # the gradient's norm is cut to this; 0 means never
    eval_every: int = 250
    eval_batches: int = 40
    sample_tokens: int = 200
    val_ratio: float = 0.1
    seed: int = 0
    precision: str = "float32"  # of the products: see `Module.precision`

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.type != "str":
                self._check_kind(field.name, field.type == "int")
        for name in ("steps", "batch_size", "accumulate", "eval_every", "eval_batches"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        for name in ("warmup", "sample_tokens", "seed"):
            self._check(name, getattr(self, name) >= 0, "0 or more")
        self._check("lr", self.lr > 0, "greater than 0")
        self._check("min_lr", 0 <= self.min_lr <= self.lr, f"between 0 and lr = {self.lr}")
        self._check("warmup", self.warmup <= self.steps, f"at most steps = {self.steps}")
        for name in ("beta1", "beta2"):
            self._check(name, 0 <= getattr(self, name) < 1, "0 or more and less than 1")
        for name in ("weight_decay", "clip"):
            self._check(name, getattr(self, name) >= 0, "0 or more")
        self._check("val_ratio", 0 < self.val_ratio < 1, "between 0 and 1")
        self._check("precision", self.precision in PRECISIONS, " or ".join(PRECISIONS))

    def _check(self, name: str, good: bool, wanted: str) -> None:
        if not good:
            raise UserError(f"{name} must be {wanted}, not {getattr(self, name)}")

    def _check_kind(self, name: str, whole: bool) -> None:
        value = getattr(self, name)
        kinds = (int,) if whole else (int, float)
        good = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
        self._check(name, good, "a whole number" if whole else "a finite number")

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: object) -> TrainingSettings:
        """The settings that `to_json` described. UserError names what is missing or unknown."""
        if not isinstance(data, dict):
            raise UserError("the training settings are missing")
        data = {"precision": "float32", **data}  # runs from before there was a choice
        known = {field.name for field in dataclasses.fields(cls)}
        for name in sorted(known ^ set(data)):
            fault = "missing" if name in known else "unknown"
            raise UserError(f"the training setting {name!r} is {fault}")
        return cls(**data)


def sensible_warmup(steps: int, wanted: int = 100) -> int:
    """`wanted` warm-up steps, but never more than a tenth of the run."""
    return min(wanted, steps // 10)
