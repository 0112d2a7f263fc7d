"""What a model computes row by row gives a row the same bits beside any number of other rows."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from byhand import backend, nn
from byhand.ops import activation

ROWS, WIDTH = 37, 83


def rotated(x: np.ndarray, first: int) -> np.ndarray:
    """Row i is at position first + i."""
    heads = np.ascontiguousarray(x[:, :80]).reshape(1, -1, 2, 40)
    return nn.RotaryPositions(40)(heads, start=first).reshape(-1, 80)


def embedded(x: np.ndarray, first: int) -> np.ndarray:
    ids = (np.abs(x[:, 0]) * 1000).astype(np.int64) % 50
    return LAYERS["embedding"](ids, x)


LAYERS: dict[str, Any] = {
    "layer norm": nn.LayerNorm(WIDTH),
    "rms norm": nn.RMSNorm(WIDTH),
    "embedding": nn.Embedding(50, WIDTH),
}
for layer in LAYERS.values():
    layer.build().inference()
    for parameter in layer.parameters():
        parameter.value = np.random.default_rng(1).normal(size=parameter.shape)
FUNCTIONS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "layer norm": lambda x, first: LAYERS["layer norm"](x),
    "rms norm": lambda x, first: LAYERS["rms norm"](x),
    "embedding": embedded,
    "rotary positions": rotated,
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
