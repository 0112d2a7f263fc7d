"""Cross-entropy of logits against target ids, with ignored targets and label smoothing.

    nll_r  = lse_r - logits[r, target_r],      lse_r = log sum_v exp(logits[r, v])
    loss_r = (1 - e) nll_r + e mean_v(lse_r - logits[r, v])
    dlogits = (softmax(logits) - (1 - e) onehot(target) - e/V) * dloss / count

Bishop, "Pattern recognition and machine learning" (2006), equation 4.108; smoothing e after Szegedy
et al., "Rethinking the Inception architecture" (2016), section 7. Rows whose
target is ignore_index are left out. The mean is over the kept rows; when all are left out, the loss
and every gradient are 0. Saved: logits, targets, lse, count.

When the logits are not needed afterwards, gradient_in_place does both in one pass: it overwrites
the logits with their gradient and reads and writes each once (Hsu et al., "Liger Kernel", 2024).
"""

from __future__ import annotations

import inspect
from typing import Literal

import numpy as np

from byhand.backend import Array, In, Mut, Out, empty, kernels, reference_kernel, statistics
from byhand.ops import check
from byhand.ops.check import Saved
from byhand.ops.declare import op
from byhand.ops.linear import as_rows


@reference_kernel
def cross_entropy_forward(
    loss: Out[np.float32],
    count: Out[np.float32],
    lse: Out[np.float32],
    logits: In,
    targets: In[np.int64],
    ignore_index: int,
    smoothing: float,
    mean: bool,
) -> None:
    top = logits.max(axis=-1, keepdims=True, initial=-np.inf)
    total = top[..., 0] + np.log(np.exp(logits - top).sum(axis=-1))
    lse[...] = np.where(targets == ignore_index, np.inf, total)  # exp(logits - lse) is 0 there
    kept = np.flatnonzero(targets.reshape(-1) != ignore_index)
    log_p = as_rows(logits)[kept] - total.reshape(-1)[kept, None]
    losses = -(1 - smoothing) * log_p[np.arange(kept.size), targets.reshape(-1)[kept]]
    if smoothing > 0:
        losses = losses - smoothing * log_p.mean(axis=-1)
    count[...] = kept.size
    loss[...] = losses.sum(dtype=np.float64) / (max(kept.size, 1) if mean else 1)


@reference_kernel
def cross_entropy_backward(
    dlogits: Out,
    dloss: In[np.float32],
    count: In[np.float32],
    lse: In[np.float32],
    logits: In,
    targets: In[np.int64],
    ignore_index: int,
    smoothing: float,
    mean: bool,
) -> None:
    ids = targets.reshape(-1)
    kept = ids != ignore_index
    g = np.exp(as_rows(logits) - lse.reshape(-1, 1))
    rows = np.flatnonzero(kept)
    g[rows, ids[rows]] -= 1 - smoothing
    g -= smoothing / max(logits.shape[-1], 1)
    g *= dloss / np.maximum(count, 1) if mean else dloss
    g[~kept] = 0
    dlogits[...] = g.reshape(logits.shape)


@reference_kernel
def cross_entropy_gradient(
    loss: Out[np.float32],
    count: Out[np.float32],
    lse: Out[np.float32] | None,
    logits: Mut,
    dloss: In[np.float32],
    targets: In[np.int64],
    ignore_index: int,
    smoothing: float,
    mean: bool,
) -> None:
    options = targets, ignore_index, smoothing, mean
    lses = np.empty(targets.shape, logits.dtype) if lse is None else lse
    _forward(loss, count, lses, logits, *options)
    _backward(logits, dloss, count, lses, logits, *options)


# Without the checks of dtype and layout: cross_entropy_gradient has made them, and calibration runs
# it in float32.
_forward = inspect.unwrap(cross_entropy_forward)
_backward = inspect.unwrap(cross_entropy_backward)


def _check(
    where: str, logits: Array, targets: Array, ignore: int, label_smoothing: float, how: str
) -> bool:
    """Checks the values of the arguments of a loss; whether the reduction is the mean."""
    check.in_0_to_1(where, "label_smoothing", label_smoothing)
    check.reduction(where, how, ("mean", "sum"))
    check.ids(where, "targets", targets, logits.shape[-1], ignore)
    return how == "mean"


@op(logits="... V", targets="...")
def forward(
    logits: Array,
    targets: Array,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "sum"] = "mean",
) -> tuple[Array, Saved]:
    """logits (..., V), targets (...) int64 -> loss, a 0-d array, and saved.

    reduction: "mean" over the kept rows, or "sum". IndexError naming the position of a target
    outside 0..V-1 that is not ignore_index (numpy arrays only), ValueError for a shape or an
    option, TypeError for a dtype.
    """
    kernel = kernels(logits).cross_entropy_forward
    mean = _check(
        "cross_entropy.forward", logits, targets, ignore_index, label_smoothing, reduction
    )
    f = statistics(logits)
    loss, count, lse = empty((), logits, f), empty((), logits, f), empty(targets.shape, logits, f)
    kernel(loss, count, lse, logits, targets, ignore_index, label_smoothing, mean)
    return loss, (logits, targets, lse, count, ignore_index, label_smoothing, mean)


@op(saved={"logits": "... V"}, out="... V?")
def backward(dloss: Array | float, saved: Saved, out: Array | None = None) -> Array:
    """dloss (0-d array or number) -> dlogits (..., V), written into `out` when given; `out` may be
    the logits.
    """
    logits, targets, lse, count, ignore_index, label_smoothing, mean = saved
    dloss = check.upstream("cross_entropy.backward", dloss, logits)
    if out is None:
        out = empty(logits.shape, logits)
    kernel = kernels(logits).cross_entropy_backward
    kernel(out, dloss, count, lse, logits, targets, ignore_index, label_smoothing, mean)
    return out


@op(logits="... V", targets="...")
def gradient_in_place(
    logits: Array,
    targets: Array,
    dloss: Array | float = 1.0,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "sum"] = "mean",
) -> Array:
    """Returns the loss of forward and overwrites logits (..., V) with what backward(dloss) gives.

    dloss: a 0-d array, which is read on its device, or a number. The errors are those of forward;
    the logits are unchanged when one is raised.
    """
    kernel = kernels(logits).cross_entropy_gradient
    where = "cross_entropy.gradient_in_place"
    mean = _check(where, logits, targets, ignore_index, label_smoothing, reduction)
    dloss = check.upstream(where, dloss, logits)
    f = statistics(logits)
    loss, count = empty((), logits, f), empty((), logits, f)
    kernel(loss, count, None, logits, dloss, targets, ignore_index, label_smoothing, mean)
    return loss
