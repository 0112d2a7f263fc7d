"""Stochastic gradient descent with momentum, and with proximal L1 and L2 penalties."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from byhand import backend
from byhand.backend import Array
from byhand.nn.module import Module
from byhand.ops import sgd
from byhand.optim.optimizer import Optimizer


class SGD(Optimizer):
    """Stochastic gradient descent over all trainable parameters of ``model``; see `Optimizer` for
    ``groups`` and errors.

        g = g + weight_decay w,      m = momentum m + g
        w = w - lr m, or with nesterov w - lr (g + momentum m)
        w = sign(w) max(|w| - lr l1, 0) / (1 + lr l2)

    Args:
        lr: learning rate.
        momentum: of the running sum m of gradients; 0: there is none.
        nesterov: Nesterov's momentum (Sutskever et al., 2013), which needs momentum > 0.
        weight_decay: PyTorch's, an L2 penalty in the gradient.
        l1, l2: penalties ``l1 |w|_1 + l2/2 |w|^2`` in proximal form (Parikh & Boyd, 2014, section
            6.5.3). l1 makes weights exactly 0; both together are the elastic net. Like
            weight_decay they do not apply to biases and norms.

    Its slot is ``m``, if there is momentum. Raises ValueError for nesterov without momentum.
    """

    SETTINGS = ("lr", "momentum", "nesterov", "weight_decay", "l1", "l2")

    def __init__(
        self,
        model: Module,
        lr: float = 1e-3,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        l1: float = 0.0,
        l2: float = 0.0,
        groups: Iterable[Mapping[str, Any]] = (),
    ):
        self.momentum = self.number("momentum", momentum)
        self.nesterov = self.flag("nesterov", nesterov)
        if self.nesterov and not self.momentum:
            raise ValueError("SGD: nesterov needs a momentum above 0, got momentum=0")
        self.l1 = self.number("l1", l1)
        self.l2 = self.number("l2", l2)
        self.SLOTS = ("m",) if self.momentum else ()
        super().__init__(model, lr, weight_decay, groups)
        penalties = [[value if decays else 0.0 for _, decays in self._pieces] for value in (l1, l2)]
        self._penalties = backend.zeros((2, len(self._pieces)), self._settings)
        backend.copy_to(self._penalties, np.array(penalties, self._settings.dtype))

    def update(self, norm: Array | None, max_norm: float) -> None:
        w, g, common = self.flat(norm, max_norm)
        sgd.step(
            w,
            self.slots.get("m"),
            g,
            l1=self._penalties[0],
            l2=self._penalties[1],
            momentum=self.momentum,
            nesterov=self.nesterov,
            **common,
        )
