"""A linear layer without bias and the cross-entropy of its outputs, in one op.

    logits = x wT,      loss and dlogits as in cross_entropy
    dx = dlogits w,     dw = dlogitsT x

For large vocabularies: the logits, by far the largest activation of a language model, exist only
for a block of rows at a time. A backward pass would have to recompute them, which costs a third
more; so the forward call computes the gradients too, as in Hsu et al., "Liger Kernel" (2024), and
needs the factor dloss by which the loss is scaled.
"""

from __future__ import annotations

import inspect
from typing import Literal

import numpy as np

from byhand.backend import (
    Acc,
    Array,
    In,
    Out,
    empty,
    is_cupy,
    kernels,
    reference_kernel,
    statistics,
)
from byhand.ops import check
from byhand.ops.cross_entropy import cross_entropy_backward, cross_entropy_forward
from byhand.ops.declare import op
from byhand.ops.linear import as_rows
from byhand.ops.precision import operands

# Without the checks of dtype and layout: their arguments are made here, and calibration runs this
# in float32.
_losses = inspect.unwrap(cross_entropy_forward)
_differentiate = inspect.unwrap(cross_entropy_backward)


@reference_kernel
def linear_cross_entropy_forward(
    loss: Out[np.float32],
    count: Out[np.float32],
    dx: Out | None,
    dw: Acc | None,
    work: Out,
    x: In,
    w: In,
    dloss: In[np.float32],
    targets: In[np.int64],
    ignore_index: int,
    smoothing: float,
    mean: bool,
    bf16: bool,
) -> None:
    work[...] = 0  # the native kernels keep a block of logits here
    options = targets, ignore_index, smoothing, mean
    x, w = operands(bf16, x, w)
    logits = x @ w.T
    lse = np.empty(targets.shape, logits.dtype)
    _losses(loss, count, lse, logits, *options)
    if dx is None and dw is None:
        return
    dlogits, scale = np.empty_like(logits), np.asarray(dloss, logits.dtype)
    _differentiate(dlogits, scale, count, lse, logits, *options)
    (dlogits,) = operands(bf16, dlogits)
    if dx is not None:
        dx[...] = dlogits @ w
    if dw is not None:
        dw += as_rows(dlogits).T @ as_rows(x)


def _block(rows: int, classes: int, most: int | None, gpu: bool = False) -> int:
    """How many rows of logits to compute at a time: at most `most`, in blocks of nearly equal size.

    Each block reads w twice and dw once, whatever its size, so small blocks are slow; about 1024
    rows are as fast as all at once. There are more where the vocabulary is small, and on a GPU: the
    product with w, whose result is narrow, must keep every multiprocessor busy.
    """
    if most is None:
        usual = max(8192 if gpu else 1024, 2**22 // max(classes, 1))
        blocks = (rows + usual // 2) // usual
    else:
        blocks = -(-rows // most)
    return max(1, -(-rows // max(1, blocks)))


@op(x="... K", w="V K", targets="...", dw="V K?")
def forward(
    x: Array,
    w: Array,
    targets: Array,
    dw: Array | None = None,
    need_dx: bool = True,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "sum"] = "mean",
    dloss: Array | float = 1.0,
    bf16: bool = False,
    block: int | None = None,
) -> tuple[Array, Array | None]:
    """x (..., K), w (V, K), targets (...) int64 -> loss, a 0-d array, and dx (..., K).

    Adds into dw (V, K), None when frozen. There is no backward: the gradients are those of dloss
    times the loss. dloss is a number or a 0-d array, read where it lies: a CUDA graph may change it
    from launch to launch. dx is None unless need_dx; with neither, as for evaluation, the call
    takes a third of the time.

    ignore_index, label_smoothing and reduction are those of cross_entropy. With bf16 the products
    take their factors rounded to bfloat16. block: the most rows whose logits exist at once, by
    default the fewest that cost no time: about 1024, more where the vocabulary is small and on a
    GPU.

    IndexError naming the position of a target outside 0..V-1 that is not ignore_index (numpy arrays
    only), ValueError for a shape or an option, TypeError for a dtype; nothing was written then.
    """
    kernel = kernels(x).linear_cross_entropy_forward
    where = "linear_cross_entropy.forward"
    check.in_0_to_1(where, "label_smoothing", label_smoothing)
    check.reduction(where, reduction, ("mean", "sum"))
    if block is not None and block < 1:
        raise check.wrong_value(where, "block", "at least 1", block)
    check.ids(where, "targets", targets, w.shape[0], ignore_index)
    dloss = check.upstream(where, dloss, x)
    f = statistics(x)
    loss, count = empty((), x, f), empty((), x, f)
    dx = empty(x.shape, x) if need_dx else None
    work = empty((_block(targets.size, w.shape[0], block, is_cupy(x)), w.shape[0]), x)
    options = ignore_index, label_smoothing, reduction == "mean", bf16
    kernel(loss, count, dx, dw, work, x, w, dloss, targets, *options)
    return loss, dx
