"""Cross-entropy with class weights, of each row or of all, against target ids or probabilities.

    losses_r = -sum_v q_v log p_v,      q_v = w_v ((1 - e) y_v + e/V)
    log p_v  = logits[r, v] - lse_r,    lse_r = log sum_v exp(logits[r, v])
    dlogits  = (m p - q) (dlosses_r + dloss / total),      m = sum_v q_v

y is a row of probabilities, or 1 at the target's id and 0 elsewhere; e is the label smoothing of
Szegedy et al., "Rethinking the Inception architecture" (2016), section 7; w are the class weights.
The mean divides the sum of the losses by `total`, the sum of the weights of the targets, or by the
number of rows where there are probabilities, as PyTorch does. Rows whose target is
ignore_index are left out; when all are, the loss and every gradient are 0. With normalise=False the
logits are log-probabilities already (the negative log-likelihood): log p_v = logits[r, v].

`cross_entropy` is the same without weights, quicker on a GPU. Saved: logits, targets,
probabilities, weight, total, lse, mass (the m of each row), and options.
"""

from __future__ import annotations

import numpy as np

from byhand import _host
from byhand.backend import Array, In, Out, empty, kernels, reference_kernel, statistics
from byhand.ops import check
from byhand.ops.check import Reduction, Saved
from byhand.ops.declare import op
from byhand.ops.linear import as_rows


def _kept(rows: int, targets: Array | None, ignore_index: int) -> Array:
    """Which rows count."""
    return np.ones(rows, bool) if targets is None else targets.reshape(-1) != ignore_index


def _distributions(
    logits: Array,
    targets: Array | None,
    probabilities: Array | None,
    weight: Array | None,
    ignore_index: int,
    smoothing: float,
) -> Array:
    """q (R, V); 0 in rows that are left out."""
    rows, classes = as_rows(logits).shape
    if probabilities is not None:
        q = (1 - smoothing) * as_rows(probabilities)
    else:
        assert targets is not None
        q = np.zeros((rows, classes), logits.dtype)
        kept = np.flatnonzero(targets.reshape(-1) != ignore_index)
        q[kept, targets.reshape(-1)[kept]] = 1 - smoothing
    q = q + smoothing / max(classes, 1)
    if weight is not None:
        q = q * weight
    return np.where(_kept(rows, targets, ignore_index)[:, None], q, 0)


@reference_kernel
def weighted_cross_entropy_forward(
    loss: Out[np.float32],
    total: Out[np.float32],
    losses: Out[np.float32],
    lse: Out[np.float32],
    mass: Out[np.float32],
    logits: In,
    targets: In[np.int64] | None,
    probabilities: In | None,
    weight: In[np.float32] | None,
    ignore_index: int,
    smoothing: float,
    mean: bool,
    normalise: bool,
) -> None:
    x = as_rows(logits)
    kept = _kept(len(x), targets, ignore_index)
    q = _distributions(logits, targets, probabilities, weight, ignore_index, smoothing)
    m, top, log_sum = q.sum(axis=-1), np.zeros(len(x), x.dtype), 0.0
    if normalise and x.shape[-1] > 0:
        top = x.max(axis=-1)
        log_sum = np.log(np.exp(x - top[:, None]).sum(axis=-1))
    with np.errstate(invalid="ignore"):  # 0 times infinity
        away = np.where(q == 0, 0, q * (top[:, None] - x)).sum(axis=-1)
    each = np.where(kept, m * log_sum + away, 0)
    row_weights = kept.astype(x.dtype)
    if weight is not None and probabilities is None:
        assert targets is not None
        row_weights[kept] = weight[targets.reshape(-1)[kept]]
    losses[...] = each.reshape(losses.shape)
    mass[...] = m.reshape(mass.shape)
    lse[...] = np.where(kept & normalise, top + log_sum, np.inf).reshape(lse.shape)
    total[...] = row_weights.sum(dtype=np.float64)
    loss[...] = each.sum(dtype=np.float64) / (total if mean and total > 0 else 1)


@reference_kernel
def weighted_cross_entropy_backward(
    dlogits: Out,
    dloss: In[np.float32] | None,
    dlosses: In[np.float32] | None,
    total: In[np.float32],
    lse: In[np.float32],
    mass: In[np.float32],
    logits: In,
    targets: In[np.int64] | None,
    probabilities: In | None,
    weight: In[np.float32] | None,
    ignore_index: int,
    smoothing: float,
    mean: bool,
) -> None:
    q = _distributions(logits, targets, probabilities, weight, ignore_index, smoothing)
    k = 0 if dloss is None else dloss / total if mean and total > 0 else dloss
    d = np.broadcast_to(k if dlosses is None else k + dlosses, mass.shape)[..., None]
    g = (mass[..., None] * np.exp(logits - lse[..., None]) - q.reshape(logits.shape)) * d
    kept = _kept(mass.size, targets, ignore_index).reshape(mass.shape)
    dlogits[...] = np.where(kept[..., None], g, 0)


def _check_weight(where: str, weight: Array) -> None:
    if not isinstance(weight, np.ndarray) or _host.all_within(weight, 0, np.inf):
        return
    if bad := check.first_where("weight", weight, ~(weight >= 0)):
        raise ValueError(f"{where}: {bad} must be at least 0")


@op(logits="... V", targets="...?", probabilities="... V?", weight="V?")
def forward(
    logits: Array,
    targets: Array | None = None,
    probabilities: Array | None = None,
    weight: Array | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    normalise: bool = True,
) -> tuple[Array, Saved]:
    """logits (..., V), and targets (...) int64 or probabilities (..., V) -> the loss, a 0-d array,
    or with reduction "none" the losses (...), 0 in rows that are left out; and saved.

    Beside probabilities, targets only say which rows are left out.

    weight (V,): a factor for each class, at least 0, in float32 on a GPU. The gradients are those
    of the logits: probabilities are constants. Of numpy arrays the values are checked: IndexError
    naming the position of a target outside 0..V-1 that is not ignore_index, ValueError for a
    negative weight and for a probability outside 0..1. ValueError for a shape or an option and
    without targets and probabilities, TypeError for a dtype.
    """
    where = "weighted_cross_entropy.forward"
    kernel = kernels(logits).weighted_cross_entropy_forward
    check.in_0_to_1(where, "label_smoothing", label_smoothing)
    check.reduction(where, reduction)
    if targets is None and probabilities is None:
        raise ValueError(f"{where}: targets or probabilities must be given")
    if targets is not None:
        check.ids(where, "targets", targets, logits.shape[-1], ignore_index)
    if probabilities is not None:
        check.all_in_0_to_1(where, "probabilities", probabilities)
    if weight is not None:
        _check_weight(where, weight)
    rows, f = logits.shape[:-1], statistics(logits)
    loss, total = empty((), logits, f), empty((), logits, f)
    losses, lse, mass = empty(rows, logits, f), empty(rows, logits, f), empty(rows, logits, f)
    mean = reduction == "mean"
    kernel(
        loss, total, losses, lse, mass, logits, targets, probabilities, weight, ignore_index,
        label_smoothing, mean, normalise,
    )  # fmt: skip
    inputs = logits, targets, probabilities, weight
    options = ignore_index, label_smoothing, mean
    y = losses if reduction == "none" else loss
    return y, (logits, total, lse, mass, inputs, options, reduction)


@op(saved={"logits": "... V"})
def backward(dloss: Array | float, saved: Saved) -> Array:
    """dloss -> dlogits (..., V).

    dloss: a 0-d array or a number; with reduction "none" the gradient of the losses (...).
    """
    logits, total, lse, mass, inputs, options, reduction = saved
    where = "weighted_cross_entropy.backward"
    gradients = check.upstreams(where, dloss, logits, mass.shape, reduction)
    dlogits = empty(logits.shape, logits)
    kernel = kernels(logits).weighted_cross_entropy_backward
    kernel(dlogits, *gradients, total, lse, mass, *inputs, *options)
    return dlogits


@op(logits="... V", targets="...")
def log_probabilities(
    logits: Array, targets: Array, ignore_index: int = -100
) -> tuple[Array, Saved]:
    """logits (..., V), targets (...) int64 -> the log-probability of each target (...), 0 where it
    is ignore_index; and saved. The errors are those of forward.
    """
    y, saved = forward(logits, targets, None, None, ignore_index, 0.0, "none")
    y *= -1
    return y, saved


@op(saved={"logits": "... V"}, dy="...")
def log_probabilities_backward(dy: Array, saved: Saved) -> Array:
    """dy (...) -> dlogits (..., V): dy_r (onehot(target_r) - softmax(logits_r)) in each row."""
    dlosses = empty(dy.shape, dy)
    dlosses[...] = dy
    dlosses *= -1
    return backward(dlosses, saved)
