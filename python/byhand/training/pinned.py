"""Copies of batches to the GPU through pinned memory."""

from __future__ import annotations

import numpy as np

from byhand import backend
from byhand.backend import Array
from byhand.tasks.task import Batch


class PinnedCopies:
    """Arrays on the GPU, and two pinned buffers on the host for each of them.

    A copy from pinned memory does not hold up the host: while the GPU copies one batch, the host
    writes the next one to the other buffers. It waits only until the copy of the batch before the
    last one is done.

    Args:
        batch: numpy arrays; every batch must have the same names, shapes and dtypes.
        like: a cupy array; the arrays are made on its device.

    Attributes:
        arrays: what was copied last, by name.
    """

    def __init__(self, batch: Batch, like: Array):
        import cupy

        self.arrays = {n: backend.empty(a.shape, like, a.dtype) for n, a in batch.items()}
        self._buffers = [{n: _pinned(a) for n, a in batch.items()} for _ in range(2)]
        self._copied = [cupy.cuda.Event(disable_timing=True) for _ in range(2)]
        self._turn = 0

    def copy(self, batch: Batch) -> None:
        """Queues copies to `arrays` on the current stream. Raises TypeError for another dtype."""
        buffers, copied = self._buffers[self._turn], self._copied[self._turn]
        self._turn = 1 - self._turn
        copied.synchronize()
        for name, array in batch.items():
            np.copyto(buffers[name], array, casting="equiv")
        for name in batch:
            backend.copy_to(self.arrays[name], buffers[name])
        copied.record()


def _pinned(like: np.ndarray) -> np.ndarray:
    import cupy

    memory = cupy.cuda.alloc_pinned_memory(max(like.nbytes, 1))
    return np.ndarray(like.shape, like.dtype, buffer=memory)
