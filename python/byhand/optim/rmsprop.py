"""RMSprop: steps divided by the root of the mean squared gradient."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from byhand.backend import Array
from byhand.nn.module import Module
from byhand.ops import rmsprop
from byhand.optim.optimizer import Optimizer


class RMSprop(Optimizer):
    """RMSprop (Tieleman & Hinton, 2012) over all trainable parameters of ``model``; see `Optimizer`
    for ``groups`` and errors.

        g = g + weight_decay w,      v = alpha v + (1 - alpha) g^2
        w = w - lr g / (sqrt(v) + eps)

    Args:
        lr: learning rate.
        alpha: decay rate of the mean squared gradient, in [0, 1).
        eps: added to its root.
        weight_decay: PyTorch's, an L2 penalty in the gradient.
        momentum: of the running sum of the steps (before lr); 0: there is none.
        centered: divides by the root of the variance v - mean^2, where ``mean`` is the mean
            gradient (Graves, 2013, equations 38 to 42).

    Its slots are ``v``, ``mean`` if centered, and ``m`` if there is momentum.
    """

    SETTINGS = ("lr", "alpha", "eps", "weight_decay", "momentum", "centered")

    def __init__(
        self,
        model: Module,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        groups: Iterable[Mapping[str, Any]] = (),
    ):
        self.alpha = self.share("alpha", alpha)
        self.eps = self.number("eps", eps)
        self.momentum = self.number("momentum", momentum)
        self.centered = self.flag("centered", centered)
        self.SLOTS = (
            "v",
            *(("mean",) if self.centered else ()),
            *(("m",) if self.momentum else ()),
        )
        super().__init__(model, lr, weight_decay, groups)

    def update(self, norm: Array | None, max_norm: float) -> None:
        w, g, common = self.flat(norm, max_norm)
        rmsprop.step(
            w,
            self.slots["v"],
            self.slots.get("mean"),
            self.slots.get("m"),
            g,
            alpha=self.alpha,
            eps=self.eps,
            momentum=self.momentum,
            **common,
        )
