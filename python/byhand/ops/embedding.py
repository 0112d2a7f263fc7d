"""Looks up a row of a table for every id.

    y[r] = scale * w[ids[r]] + add[r]
    dw[i] += sum of scale * dy[r] over the rows r with ids[r] = i, in ascending order

Bengio et al., "A neural probabilistic language model" (2003), section 2: the product of a one-hot
row with the table, without the zeros. A gather forward is a scatter-add backward. The scale is
that of Vaswani et al. (2017), section 3.4, where it is sqrt(C). Saved: ids, scale.
"""

from __future__ import annotations

import numpy as np

from byhand.backend import Acc, Array, In, Out, empty, is_cupy, kernels, reference_kernel
from byhand.ops import check
from byhand.ops.check import Saved
from byhand.ops.declare import op
from byhand.ops.linear import as_rows


@reference_kernel
def embedding_forward(y: Out, w: In, ids: In[np.int64], add: In | None, scale: float) -> None:
    rows = w.dtype.type(scale) * w[ids]
    y[...] = rows if add is None else rows + add


@reference_kernel
def embedding_backward(
    dw: Acc | None, work: Out[np.float32], dy: In, ids: In[np.int64], scale: float
) -> None:
    work[...] = 0  # CUDA sorts the rows here
    if dw is not None:
        np.add.at(dw, ids.reshape(-1), dy.dtype.type(scale) * as_rows(dy))


def work_size(rows: int, columns: int) -> int:
    """The size of `work` that CUDA needs, see the contract; the CPU needs none."""
    return 3 * rows + 512 + columns * -(-rows // 32)


@op(ids="...", w="V C", add="... C?")
def forward(
    ids: Array, w: Array, add: Array | None = None, scale: float = 1.0
) -> tuple[Array, Saved]:
    """ids (...) int64, w (V, C), add (..., C) or None -> y (..., C), saved.

    scale: what the rows of w are multiplied by, a finite number.

    IndexError naming the position of an id outside 0..V-1 (numpy arrays only), ValueError for a
    shape, TypeError for a dtype.
    """
    kernel = kernels(w).embedding_forward
    check.ids("embedding.forward", "ids", ids, w.shape[0])
    check.number("embedding.forward", "scale", scale, np.isfinite, "a finite number")
    y = empty(ids.shape + w.shape[1:], w)
    kernel(y, w, ids, add, scale)
    return y, (ids, w.shape, scale)


@op(saved={"ids": "...", "table": "(V C)"}, dy="... C", dw="V C?")
def backward(dy: Array, saved: Saved, dw: Array | None) -> None:
    """dy (..., C): adds into dw (V, C), None when frozen. Ids have no gradient; that of `add` is
    dy.
    """
    ids, _, scale = saved
    if dw is None:
        return
    size = work_size(ids.size, dw.shape[1]) if is_cupy(dw) else 0
    kernels(dw).embedding_backward(dw, empty((size,), dw), dy, ids, scale)
