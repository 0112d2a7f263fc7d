"""One step of stochastic gradient descent over flat buffers.

    g = g + weight_decay w,      m = momentum m + g
    w = w - lr d,                d = m; g without momentum; g + momentum m with nesterov
    w = sign(w) max(|w| - lr l1, 0) / (1 + lr l2)

Momentum as in Sutskever, Martens, Dahl and Hinton, "On the importance of initialization and
momentum in deep learning" (2013), in the form of PyTorch, where the learning rate is not a part of
m. weight_decay is the gradient of the penalty weight_decay/2 |w|^2. The last line is the proximal
operator of the penalty l1 |w|_1 + l2/2 |w|^2, of which l1 alone is the lasso and both together the
elastic net (Parikh and Boyd, "Proximal algorithms", 2014, section 6.5.3): it makes small weights
exactly 0, as the gradient of |w|_1 does not.

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
def sgd_step(
    w: Mut[np.float32],
    m: Mut[np.float32] | None,
    copy: Out | None,
    t: Mut[np.int64],
    work: Out[np.float32],
    g: In,
    norm: In[np.float32] | None,
    lr: In[np.float32],
    weight_decay: In[np.float32],
    l1: In[np.float32],
    l2: In[np.float32],
    bounds: In[np.int64],
    momentum: float,
    nesterov: bool,
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
    rate = lr[group]
    g = g + weight_decay[group] * w
    if m is not None:
        m[...] = momentum * m + g
        g = g + momentum * m if nesterov else m
    w -= rate * g
    threshold = rate * l1[group]
    w[...] = (w - np.clip(w, -threshold, threshold)) / (1 + rate * l2[group])
    if copy is not None:
        copy[...] = w


@op(
    w="N",
    m="N?",
    g="N",
    lr="G",
    weight_decay="G",
    l1="G",
    l2="G",
    bounds="G",
    t="",
    norm="?",
    copy="N?",
)
def step(
    w: Array,
    m: Array | None,
    g: Array,
    *,
    lr: Array,
    weight_decay: Array,
    l1: Array,
    l2: Array,
    bounds: Array,
    t: Array,
    momentum: float = 0.0,
    nesterov: bool = False,
    norm: Array | None = None,
    max_norm: float = 0.0,
    copy: Array | None = None,
) -> None:
    """Updates w and m (both (N,)) in place from the gradient g (N,), and counts t up by one.

    m is None without momentum. l1, l2: the proximal penalties. lr, weight_decay, l1, l2: (G,), one
    for each group. bounds: (G,) int64, where each group ends; they ascend, and the last is N. t:
    0-d int64, the steps done before. norm: the 0-d gradient norm when the gradient is to be clipped
    to max_norm. copy: (N,), receives the new w. g and copy may be bfloat16 on CUDA; all else is
    float32, or everything float64.

    ValueError when a shape differs, momentum is negative, or not 0 where m is None, t is negative,
    or bounds do not ascend to N; the values of the last two are checked on the CPU only.
    """
    kernel = kernels(w).sgd_step
    check.step_of_optimizer("sgd.step", w, lr, bounds, t, norm, max_norm)
    check.at_least_0("sgd.step", "momentum", momentum)
    if m is None and (momentum or nesterov):
        raise ValueError("sgd.step: momentum and nesterov need m, got None")
    work = empty((lr.shape[0], 5), w)
    kernel(
        w, m, copy, t, work, g, norm, lr, weight_decay, l1, l2, bounds, momentum, nesterov, max_norm
    )
