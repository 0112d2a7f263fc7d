"""One step of AdamW over flat buffers.

    m = beta1 m + (1 - beta1) g,      v = beta2 v + (1 - beta2) g^2
    w = (1 - lr weight_decay) w - lr mhat / (sqrt(vhat) + eps)
    mhat = m / (1 - beta1^t),            vhat = v / (1 - beta2^t)

Kingma and Ba, "Adam" (2015), algorithm 1, with the decay outside the moments as in Loshchilov and
Hutter, "Decoupled weight decay regularization" (2019), algorithm 2. Only the first `decayed`
elements decay. With a norm the gradient is first scaled by min(1, max_norm / (norm + 1e-6))
(Pascanu, Mikolov and Bengio, 2013, algorithm 1).
"""

import numpy as np

from byhand.backend import Array, In, Mut, kernels, reference_kernel
from byhand.ops import check
from byhand.ops.grad_norm import clip_factor


@reference_kernel
def adamw_step(
    w: Mut,
    m: Mut,
    v: Mut,
    g: In,
    norm: In | None,
    decayed: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    t: int,
    max_norm: float,
) -> None:
    if norm is not None:
        g = g * clip_factor(norm, max_norm)
    m[...] = beta1 * m + (1 - beta1) * g
    v[...] = beta2 * v + (1 - beta2) * g * g
    w[:decayed] *= 1 - lr * weight_decay
    w -= lr / (1 - beta1**t) * m / (np.sqrt(v / (1 - beta2**t)) + eps)


@check.door
def step(
    w: Array,
    m: Array,
    v: Array,
    g: Array,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    t: int,
    decayed: int,
    norm: Array | None = None,
    max_norm: float = 0.0,
) -> None:
    """Updates w, m and v (all (N,)) in place from the gradient g (N,); t counts steps from 1.

    norm: the 0-d gradient norm when the gradient is to be clipped to max_norm, or None.
    ValueError when a shape differs, t < 1, decayed is outside 0..N, or a beta is outside 0 <= beta
    < 1.
    """
    kernel = kernels(w).adamw_step
    if w.ndim != 1:
        raise check.wrong_shape("adamw.step", "w", "(N,)", w)
    shape = w.shape
    if m.shape != shape:
        raise check.wrong_shape("adamw.step", "m", shape, m)
    if v.shape != shape:
        raise check.wrong_shape("adamw.step", "v", shape, v)
    if g.shape != shape:
        raise check.wrong_shape("adamw.step", "g", shape, g)
    if norm is not None:
        if norm.shape != ():
            raise check.wrong_shape("adamw.step", "norm", (), norm)
        if not max_norm > 0:
            raise check.wrong_value(
                "adamw.step", "max_norm", "positive when norm is given", max_norm
            )
    if t < 1:
        raise check.wrong_value("adamw.step", "t", "at least 1", t)
    if not 0 <= decayed <= shape[0]:
        raise check.wrong_value("adamw.step", "decayed", f"in 0..{shape[0]}", decayed)
    beta1, beta2 = betas
    if not (0 <= beta1 < 1 and 0 <= beta2 < 1):
        raise check.wrong_value("adamw.step", "betas", "at least 0 and less than 1", betas)
    kernel(w, m, v, g, norm, decayed, lr, beta1, beta2, eps, weight_decay, t, max_norm)
