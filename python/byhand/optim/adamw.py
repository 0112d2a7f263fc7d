"""AdamW: Adam with decoupled weight decay (Loshchilov & Hutter, 2019, algorithm 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from byhand import backend
from byhand.backend import Array
from byhand.nn.module import Module
from byhand.ops import adamw, grad_norm


class AdamW:
    """Updates all parameters of ``model`` in one pass over its flat buffer.

    Weight decay applies to matrices and embeddings, not to biases and norms.

    Args:
        model: any Module; its parameters must not be moved (``to``) afterwards.
        lr: learning rate; the attribute ``lr`` may be set between steps.
        betas: decay rates of the first and second moment, each in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: decoupled decay rate, multiplied by the learning rate.

    Raises ValueError naming the argument that is out of range.
    """

    def __init__(
        self,
        model: Module,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ):
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            if not (value >= 0 and np.isfinite(value)):
                raise ValueError(f"AdamW: {name} must be a number >= 0, got {value}")
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"AdamW: betas must be two numbers in [0, 1), got {betas}")
        self.model = model
        self.lr = lr
        self.betas = (float(betas[0]), float(betas[1]))
        self.eps = eps
        self.weight_decay = weight_decay
        self.step_count = 0
        values = model.arena.values
        self.m = backend.zeros(values.shape, values)
        self.v = backend.zeros(values.shape, values)

    def step(self, clip_norm: float | None = None) -> Array | None:
        """One update from the accumulated gradients, which stay as they are.

        With ``clip_norm`` the gradients count as scaled down to that global norm where they exceed
        it (Pascanu, Mikolov & Bengio, 2013); returns their norm before that, a 0-d array.
        """
        if clip_norm is not None and not clip_norm > 0:
            raise ValueError(f"AdamW.step: clip_norm must be positive, got {clip_norm}")
        arena = self.model.arena
        if arena.values.dtype != self.m.dtype or type(arena.values) is not type(self.m):
            raise RuntimeError("AdamW: the model was moved; make a new optimizer after model.to()")
        norm = None if clip_norm is None else grad_norm.norm(arena.grads)
        self.step_count += 1
        adamw.step(
            arena.values,
            self.m,
            self.v,
            arena.grads,
            lr=self.lr,
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay,
            t=self.step_count,
            decayed=arena.decayed,
            norm=norm,
            max_norm=clip_norm or 0.0,
        )
        return norm

    def state_dict(self) -> dict[str, Any]:
        """{"m": first moments, "v": second moments (1-D, in arena order), "step": updates so far}.

        The arrays are views: copy them to keep them.
        """
        return {"m": self.m, "v": self.v, "step": self.step_count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` gave. ValueError on another shape; then nothing changed."""
        for name in ("m", "v"):
            if tuple(state[name].shape) != self.m.shape:
                raise ValueError(
                    f"AdamW: {name} must have shape {self.m.shape}, got {tuple(state[name].shape)}"
                )
        library = backend.xp(self.m)
        self.m[...] = library.asarray(state["m"])
        self.v[...] = library.asarray(state["v"])
        self.step_count = int(state["step"])
