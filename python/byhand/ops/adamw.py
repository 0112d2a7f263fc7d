"""One step of AdamW, or of Adam, over flat buffers.

    m = beta1 m + (1 - beta1) g,      v = beta2 v + (1 - beta2) g^2
    w = (1 - lr weight_decay) w - lr mhat / (sqrt(vhat) + eps)
    mhat = m / (1 - beta1^t),            vhat = v / (1 - beta2^t)

Kingma and Ba, "Adam" (2015), algorithm 1, with the decay outside the moments as in Loshchilov and
Hutter, "Decoupled weight decay regularization" (2019), algorithm 2. With ``coupled`` the step is
Adam's with an L2 penalty: weight_decay w is added to the gradient, and w is not shrunk. The
elements lie in consecutive groups, each with its own lr and weight_decay. When a norm is given, the
gradient is first scaled by min(1, max_norm / (norm + 1e-6)) (Pascanu, Mikolov and Bengio, 2013,
algorithm 1); when that norm is not finite, nothing is updated, t included.

What changes from step to step (t, lr, weight_decay, norm) is read from arrays on the device of the
weights, so a step does not wait for the device, and one captured CUDA graph serves every step.
"""

from __future__ import annotations

import numpy as np

from byhand.backend import Array, In, Mut, Out, empty, kernels, reference_kernel
from byhand.ops import check
from byhand.ops.declare import op
from byhand.ops.grad_norm import clip_factor


@reference_kernel
def adamw_step(
    w: Mut[np.float32],
    m: Mut[np.float32],
    v: Mut[np.float32],
    copy: Out | None,
    t: Mut[np.int64],
    work: Out[np.float32],
    g: In,
    norm: In[np.float32] | None,
    lr: In[np.float32],
    weight_decay: In[np.float32],
    bounds: In[np.int64],
    beta1: float,
    beta2: float,
    eps: float,
    max_norm: float,
    coupled: bool,
) -> None:
    work[...] = 0  # the native kernels keep the scalars of each group here
    if norm is not None and not np.isfinite(norm):
        if copy is not None:
            copy[...] = w
        return
    t += 1
    steps = int(t)
    if norm is not None:
        g = g * clip_factor(norm, max_norm)
    group = np.searchsorted(bounds[:-1], np.arange(w.size), side="right")
    rate, decay = lr[group], weight_decay[group]
    if coupled:
        g, decay = g + decay * w, 0 * decay
    m[...] = beta1 * m + (1 - beta1) * g
    v[...] = beta2 * v + (1 - beta2) * g * g
    w *= 1 - rate * decay
    w -= rate / (1 - beta1**steps) * m / (np.sqrt(v / (1 - beta2**steps)) + eps)
    if copy is not None:
        copy[...] = w


@op(
    w="N",
    m="N",
    v="N",
    g="N",
    lr="G",
    weight_decay="G",
    bounds="G",
    t="",
    norm="?",
    copy="N?",
)
def step(
    w: Array,
    m: Array,
    v: Array,
    g: Array,
    *,
    lr: Array,
    weight_decay: Array,
    bounds: Array,
    t: Array,
    betas: tuple[float, float],
    eps: float,
    norm: Array | None = None,
    max_norm: float = 0.0,
    copy: Array | None = None,
    coupled: bool = False,
) -> None:
    """Updates w, m and v (all (N,)) in place from the gradient g (N,), and counts t up by one.

    lr, weight_decay: (G,), one for each group. bounds: (G,) int64, where each group ends; they
    ascend, and the last is N. t: 0-d int64, the steps done before. norm: the 0-d gradient norm when
    the gradient is to be clipped to max_norm. copy: (N,), receives the new w. coupled: Adam
    with an L2 penalty, not AdamW. g and copy may be bfloat16 on CUDA; all else is float32, or
    everything float64.

    ValueError when a shape differs, a beta is outside 0 <= beta < 1, t is negative, or bounds do
    not ascend to N; the values of the last two are checked on the CPU only, since reading them on a
    GPU would wait for it.
    """
    kernel = kernels(w).adamw_step
    check.step_of_optimizer("adamw.step", w, lr, bounds, t, norm, max_norm)
    beta1, beta2 = betas
    if not (0 <= beta1 < 1 and 0 <= beta2 < 1):
        raise check.wrong_value("adamw.step", "betas", "at least 0 and less than 1", betas)
    work = empty((lr.shape[0], 4), w)
    kernel(
        w, m, v, copy, t, work, g, norm, lr, weight_decay, bounds, beta1, beta2, eps, max_norm,
        coupled,
    )  # fmt: skip
