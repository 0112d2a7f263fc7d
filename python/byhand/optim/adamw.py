"""AdamW: Adam with decoupled weight decay (Loshchilov & Hutter, 2019, algorithm 2)."""

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

    # A captured CUDA graph holds betas and eps as constants: a change would be ignored there.
    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("betas", "eps") and name in vars(self):
            raise AttributeError(
                f"AdamW: {name} is fixed when the optimizer is made: make a new one, and give it "
                "the state_dict() of this one"
            )
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        return (
            f"AdamW(lr={self.lr:g}, betas={self.betas}, eps={self.eps:g}, "
            f"weight_decay={self.weight_decay:g}) of {len(self._params)} parameters in "
            f"{len(self.groups)} groups, after {self.step_count} steps"
        )

    def update(self, norm: Array | None, max_norm: float) -> None:
        storage = self.model.storage
        size = storage.grads.size
        half = storage.compute_values is not storage.values
        adamw.step(
            storage.values[:size],
            self.slots["m"],
            self.slots["v"],
            storage.grads,
            lr=self._settings[0],
            weight_decay=self._settings[1],
            bounds=self._bounds,
            t=self._t,
            betas=self.betas,
            eps=self.eps,
            norm=norm,
            max_norm=max_norm,
            copy=storage.compute_values[:size] if half else None,
        )
