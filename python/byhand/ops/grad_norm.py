"""The Euclidean norm of the whole gradient, and clipping to a largest norm.

    norm = sqrt(sum g^2),      g = g * min(1, max_norm / (norm + 1e-6))

Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks" (2013),
algorithm 1. The norm stays an array on the gradient's device, so that the host does not wait.
"""

from __future__ import annotations

import numpy as np

from byhand.backend import (
    Array,
    In,
    Mut,
    Out,
    empty,
    is_cupy,
    kernels,
    reference_kernel,
    statistics,
)
from byhand.ops import check
from byhand.ops.declare import op

_BLOCK = 4096  # elements whose squares are summed in float32
_SHARES = 1024  # at most on a GPU, where one block of threads adds them up


def clip_factor(norm: Array, max_norm: float) -> Array:
    """min(1, max_norm / (norm + 1e-6)) in norm's dtype; the small number is PyTorch's guard for a
    norm of 0.
    """
    return np.minimum(1, max_norm / (norm + 1e-6)).astype(norm.dtype)


@reference_kernel
def grad_norm(norm: Out[np.float32], work: Out[np.float32], g: In) -> None:
    share = _BLOCK * -(-g.size // (_BLOCK * work.size))
    squares = np.square(g, dtype=np.float64).reshape(-1)
    for p in range(work.size):
        work[p] = squares[p * share : (p + 1) * share].sum()
    norm[...] = np.sqrt(work.sum(dtype=np.float64))


def _register_clip() -> None:
    # In a function, because the public function below has the name of the kernel.
    @reference_kernel
    def clip(g: Mut, norm: In[np.float32], max_norm: float) -> None:
        g *= clip_factor(norm, max_norm)


_register_clip()


@op(g="...")
def norm(g: Array) -> Array:
    """g of any shape -> its Euclidean norm, a 0-d array."""
    kernel = kernels(g).grad_norm
    shares = max(1, -(-g.size // _BLOCK))
    if is_cupy(g):
        shares = min(shares, _SHARES)
    f = statistics(g)
    out, work = empty((), g, f), empty((shares,), g, f)
    kernel(out, work, g)
    return out


@op(g="...", norm="")
def clip(g: Array, norm: Array, max_norm: float) -> None:
    """Scales g in place so that its norm, which the caller has measured, becomes at most max_norm.

    ValueError when norm is not a 0-d array or max_norm is not positive.
    """
    if not max_norm > 0:
        raise check.wrong_value("grad_norm.clip", "max_norm", "positive", max_norm)
    kernels(g).clip(g, norm, max_norm)
