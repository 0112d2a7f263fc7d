"""transformers in float64 throughout, as an oracle of layers and models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np


@contextmanager
def in_float64() -> Iterator[None]:
    """Inside the block transformers computes in float64 what it computes in float32 whatever the
    dtype of a model is: angles of rotary positions, softmax, norms.
    """
    import torch

    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with (
            mock.patch.object(torch, "float32", torch.float64),
            mock.patch.object(torch, "float", torch.float64),
            mock.patch.object(torch.Tensor, "float", torch.Tensor.double),
        ):
            yield
    finally:
        torch.set_default_dtype(default)


def relative_error(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference, relative to the largest number of b."""
    assert a.shape == b.shape
    return float(np.abs(a - b).max(initial=0) / max(np.abs(b).max(initial=0), 1e-30))
