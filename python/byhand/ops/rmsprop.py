"""One step of RMSprop over flat buffers.

    g = g + weight_decay w,      v = alpha v + (1 - alpha) g^2
    d = g / (sqrt(v) + eps)
    w = w - lr d

Tieleman and Hinton, "Lecture 6.5: rmsprop" (2012). Two variants, alone or together, are those of
Graves, "Generating sequences with recurrent neural networks" (2013), equations 38 to 42, with eps
outside the root as in PyTorch: centered, where v becomes the variance v - mean^2 with
mean = alpha mean + (1 - alpha) g; and with momentum, where m = momentum m + d takes the place of d.
The variance is at least 0: rounding may make it negative, and its root NaN.

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
def rmsprop_step(
    w: Mut[np.float32],
    v: Mut[np.float32],
    mean: Mut[np.float32] | None,
    m: Mut[np.float32] | None,
    copy: Out | None,
    t: Mut[np.int64],
    work: Out[np.float32],
    g: In,
    norm: In[np.float32] | None,
    lr: In[np.float32],
    weight_decay: In[np.float32],
    bounds: In[np.int64],
    alpha: float,
    eps: float,
    momentum: float,
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
    v[...] = alpha * v + (1 - alpha) * g * g
    square = np.zeros_like(v)
    if mean is not None:
        mean[...] = alpha * mean + (1 - alpha) * g
        square = np.minimum(mean * mean, v)
    move = g / (np.sqrt(v - square) + eps)
    if m is not None:
        m[...] = momentum * m + move
        move = m
    w -= lr[group] * move
    if copy is not None:
        copy[...] = w


@op(
    w="N",
    v="N",
    mean="N?",
    m="N?",
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
    mean: Array | None,
    m: Array | None,
    g: Array,
    *,
    lr: Array,
    weight_decay: Array,
    bounds: Array,
    t: Array,
    alpha: float,
    eps: float,
    momentum: float = 0.0,
    norm: Array | None = None,
    max_norm: float = 0.0,
    copy: Array | None = None,
) -> None:
    """Updates w, v, mean and m (all (N,)) in place from the gradient g (N,), and counts t up by
    one.

    mean is None unless centered, m without momentum.
    lr, weight_decay: (G,), one for each group. bounds: (G,) int64, where each group ends; they
    ascend, and the last is N. t: 0-d int64, the steps done before. norm: the 0-d gradient norm when
    the gradient is to be clipped to max_norm. copy: (N,), receives the new w. g and copy may be
    bfloat16 on CUDA; all else is float32, or everything float64.

    ValueError when a shape differs, alpha is outside 0 <= alpha < 1, eps or momentum is
    negative, momentum is not 0 where m is None, t is negative, or bounds do not ascend to N; the
    values of the last two are checked on the CPU only.
    """
    kernel = kernels(w).rmsprop_step
    check.step_of_optimizer("rmsprop.step", w, lr, bounds, t, norm, max_norm)
    check.probability("rmsprop.step", "alpha", alpha)
    check.eps("rmsprop.step", eps)
    check.at_least_0("rmsprop.step", "momentum", momentum)
    if m is None and momentum:
        raise ValueError("rmsprop.step: momentum needs m, got None")
    work = empty((lr.shape[0], 3), w)
    kernel(
        w, v, mean, m, copy, t, work, g, norm, lr, weight_decay, bounds, alpha, eps, momentum,
        max_norm,
    )  # fmt: skip
