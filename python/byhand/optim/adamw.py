"""AdamW: Adam with decoupled weight decay (Loshchilov & Hutter, 2019, algorithm 2), and Adam."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from byhand.backend import Array
from byhand.nn.module import Module
from byhand.ops import adamw
from byhand.optim.optimizer import Optimizer


class AdamW(Optimizer):
    """AdamW over all trainable parameters of ``model``; see `Optimizer` for ``groups`` and errors.

    Args:
        lr: learning rate.
        betas: decay rates of the first and second moment, each in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: decoupled decay rate, multiplied by the learning rate.

    Its slots are ``m`` and ``v``, the first and second moments.
    """

    SLOTS = ("m", "v")
    SETTINGS = ("lr", "betas", "eps", "weight_decay")
    _coupled = False

    def __init__(
        self,
        model: Module,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        groups: Iterable[Mapping[str, Any]] = (),
    ):
        super().__init__(model, lr, weight_decay, groups)
        self.betas = self.checked_betas(betas)
        self.eps = self.number("eps", eps)

    def update(self, norm: Array | None, max_norm: float) -> None:
        w, g, common = self.flat(norm, max_norm)
        adamw.step(
            w,
            self.slots["m"],
            self.slots["v"],
            g,
            betas=self.betas,
            eps=self.eps,
            coupled=self._coupled,
            **common,
        )


class Adam(AdamW):
    """Adam (Kingma & Ba, 2015, algorithm 1) over all trainable parameters of ``model``.

    As `AdamW`, but with the weight decay as an L2 penalty: ``weight_decay * w`` is added to the
    gradient, so that it passes through the moments. It is 0 unless given.
    """

    _coupled = True

    def __init__(
        self,
        model: Module,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        groups: Iterable[Mapping[str, Any]] = (),
    ):
        super().__init__(model, lr, betas, eps, weight_decay, groups)
