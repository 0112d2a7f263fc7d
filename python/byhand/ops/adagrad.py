"""One step of Adagrad over flat buffers.

    g = g + weight_decay w,      v = v + g^2
    w = w - lr / (1 + (t - 1) lr_decay) g / (sqrt(v) + eps)

Duchi, Hazan and Singer, "Adaptive subgradient methods for online learning and stochastic
optimization" (2011), figure 1 with a diagonal matrix. lr_decay is PyTorch's; t counts from 1.

The elements lie in consecutive groups, each with its own lr and weight_decay. As in `adamw`, the
gradient is scaled down to max_norm when a norm is given; when that norm is not finite, nothing is
updated, t included; and what changes from step to step is read from arrays on the device of the
weights.
"""

from __future__ import annotations

import numpy as np

from byhand.backend import Array, In, Mut, Out, empty, kernels, reference_kernel
from byhand.ops import check
from byhand.ops.declare import op
from byhand.ops.grad_norm import clip_factor


@reference_kernel
def adagrad_step(
    w: Mut[np.float32],
    v: Mut[np.float32],
    copy: Out | None,
    t: Mut[np.int64],
    work: Out[np.float32],
    g: In,
    norm: In[np.float32] | None,
    lr: In[np.float32],
    weight_decay: In[np.float32],
    bounds: In[np.int64],
    lr_decay: float,
    eps: float,
    max_norm: float,
) -> None:
    work[...] = 0  # the native kernels keep the scalars of each group here
    if norm is not None and not np.isfinite(norm):
        if copy is not None:
            copy[...] = w
        return
    t += 1
    if norm is not None:
        g = g * clip_factor(norm, max_norm)
    group = np.searchsorted(bounds[:-1], np.arange(w.size), side="right")
    g = g + weight_decay[group] * w
    v += g * g
    rate = lr[group] / (1 + (int(t) - 1) * lr_decay)
    w -= rate * g / (np.sqrt(v) + eps)
    if copy is not None:
        copy[...] = w


@op(
    w="N",
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
    v: Array,
    g: Array,
    *,
    lr: Array,
    weight_decay: Array,
    bounds: Array,
    t: Array,
    lr_decay: float,
    eps: float,
    norm: Array | None = None,
    max_norm: float = 0.0,
    copy: Array | None = None,
) -> None:
    """Updates w and v (both (N,)) in place from the gradient g (N,), and counts t up by one.

    lr, weight_decay: (G,), one for each group. bounds: (G,) int64, where each group ends; they
    ascend, and the last is N. t: 0-d int64, the steps done before. norm: the 0-d gradient norm when
    the gradient is to be clipped to max_norm. copy: (N,), receives the new w. g and copy may be
    bfloat16 on CUDA; all else is float32, or everything float64.

    ValueError when a shape differs, lr_decay or eps is negative, t is negative, or
    bounds do not ascend to N; the values of the last two are checked on the CPU only.
    """
    kernel = kernels(w).adagrad_step
    check.step_of_optimizer("adagrad.step", w, lr, bounds, t, norm, max_norm)
    check.at_least_0("adagrad.step", "lr_decay", lr_decay)
    check.eps("adagrad.step", eps)
    work = empty((lr.shape[0], 3), w)
    kernel(w, v, copy, t, work, g, norm, lr, weight_decay, bounds, lr_decay, eps, max_norm)
