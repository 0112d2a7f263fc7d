"""Gradient clipping by global norm (Pascanu, Mikolov & Bengio, 2013, algorithm 1)."""

from __future__ import annotations

from byhand.backend import Array
from byhand.nn.module import Module
from byhand.ops import grad_norm
from byhand.optim.optimizer import require_number
from byhand.optim.state import require_model


def clip_grad_norm(model: Module, max_norm: float) -> Array:
    """Scales all gradients of ``model`` down, in place, so that their joint 2-norm is at most
    ``max_norm``. Returns the norm before that, a 0-d array.

    ``Optimizer.step(clip_norm=...)`` does the same without the extra pass over memory. Raises
    ValueError unless max_norm is positive, and for a part of a larger model; TypeError for anything
    but a Module, RuntimeError for one that is not built.
    """
    require_model("clip_grad_norm", model)
    if not require_number("clip_grad_norm", "max_norm", max_norm) > 0:
        raise ValueError(f"clip_grad_norm: max_norm must be positive, got {max_norm}")
    grads = model.storage.grads
    norm = grad_norm.norm(grads)
    grad_norm.clip(grads, norm, max_norm)
    return norm
