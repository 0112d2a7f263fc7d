"""Adagrad: steps divided by the root of the sum of squared gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from byhand.backend import Array
from byhand.nn.module import Module
from byhand.ops import adagrad
from byhand.optim.optimizer import Optimizer


class Adagrad(Optimizer):
    """Adagrad (Duchi et al., 2011, figure 1, diagonal) over all trainable parameters of ``model``;
    see `Optimizer` for ``groups`` and errors.

        g = g + weight_decay w,      v = v + g^2
        w = w - lr / (1 + (t - 1) lr_decay) g / (sqrt(v) + eps)

    Args:
        lr: learning rate.
        lr_decay: how fast the learning rate falls with the step t, counted from 1.
        weight_decay: PyTorch's, an L2 penalty in the gradient.
        initial_accumulator_value: v before the first step.
        eps: added to the root of v.

    Its slot is ``v``, the sum of squared gradients.
    """

    SLOTS = ("v",)
    SETTINGS = ("lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps")

    def __init__(
        self,
        model: Module,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        groups: Iterable[Mapping[str, Any]] = (),
    ):
        super().__init__(model, lr, weight_decay, groups)
        self.lr_decay = self.number("lr_decay", lr_decay)
        self.initial_accumulator_value = self.number(
            "initial_accumulator_value", initial_accumulator_value
        )
        self.eps = self.number("eps", eps)
        self.slots["v"][...] = self.initial_accumulator_value

    def update(self, norm: Array | None, max_norm: float) -> None:
        w, g, common = self.flat(norm, max_norm)
        adagrad.step(
            w,
            self.slots["v"],
            g,
            lr_decay=self.lr_decay,
            eps=self.eps,
            **common,
        )
