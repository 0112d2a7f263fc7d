"""What a model computes row by row gives a row the same bits beside any number of other rows."""

import numpy as np
import pytest

from byhand import backend
from byhand.ops import activation, embedding, layernorm, log_softmax, rmsnorm, rope, softmax

ROWS, WIDTH = 37, 83


def rotated(x: np.ndarray, first: int) -> np.ndarray:
    """Row i is at position first + i."""
    angles = np.arange(ROWS)[:, None] * np.linspace(0.01, 3, 20)
    tables = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    heads = np.ascontiguousarray(x[:, :80]).reshape(1, -1, 2, 40)
    return rope.forward(heads, *tables, start=first)[0].reshape(-1, 80)


def embedded(x: np.ndarray, first: int) -> np.ndarray:
    ids = (np.abs(x[:, 0]) * 1000).astype(np.int64) % 50
    table = np.random.default_rng(2).normal(size=(50, WIDTH)).astype(np.float32)
    return embedding.forward(ids, table, x, 1.7)[0]


W, B = np.random.default_rng(1).normal(size=(2, WIDTH)).astype(np.float32)
FUNCTIONS = {
    "layernorm": lambda x, first: layernorm.forward(x, W, B, 1e-5)[0],
    "rmsnorm": lambda x, first: rmsnorm.forward(x, W, 1e-5)[0],
    "softmax": lambda x, first: softmax.forward(x)[0],
    "log_softmax": lambda x, first: log_softmax.forward(x)[0],
    "rope": rotated,
    "embedding": embedded,
}
FUNCTIONS |= {
    name: lambda x, first, name=name: activation.forward(x, name)[0] for name in activation.NAMES
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("module", backend.cpu_modules())
def test_a_row_has_the_same_bits_alone(name: str, module: str):
    x = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32) * 3
    with backend.use_cpu(module):
        whole = FUNCTIONS[name](x, 0)
        assert np.isfinite(whole).all()
        for first, last in ((0, 1), (5, 6), (36, 37), (1, 4), (3, 11), (7, 36)):
            part = FUNCTIONS[name](x[first:last], first)
            np.testing.assert_array_equal(part, whole[first:last])
