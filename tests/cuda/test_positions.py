"""The layers of positions on the CUDA kernels, through the same Python code as on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from byhand import nn

DIM, HEADS, WIDTH, CONTEXT = 12, 2, 8, 40


class Model(nn.Module):
    """Positions of all kinds, and attention that uses them."""

    def __init__(self, kind: str):
        rotation = None if kind != "rotary" else nn.RotaryPositions(WIDTH, rotary_dim=4)
        self.tokens = nn.Embedding(11, DIM, scale=DIM**0.5)
        self.places = {
            "rotary": nn.RMSNorm(DIM),
            "sinusoidal": nn.SinusoidalPositions(DIM),
            "learned": nn.LearnedPositions(CONTEXT, DIM),
        }[kind]
        self.attention = nn.MultiHeadAttention(
            DIM, HEADS, 1, True, head_dim=WIDTH, positions=rotation, qk_norm=1e-5, window=5
        )
        self.plain = nn.MultiHeadAttention(DIM, HEADS, 1, True, head_dim=WIDTH, positions=rotation)

    def forward(self, ids: Any) -> Any:
        return self.plain(self.attention(self.places(self.tokens(ids))))

    def backward(self, dy: Any) -> None:
        self.tokens.backward(self.places.backward(self.attention.backward(self.plain.backward(dy))))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("kind", ["rotary", "sinusoidal", "learned"])
def test_values_and_gradients_equal_those_of_the_cpu(kind: str, precision: str, cupy: Any):
    ids = np.random.default_rng(0).integers(0, 11, (2, 9))
    dy = np.random.default_rng(1).standard_normal((2, 9, DIM)).astype(np.float32)
    host = Model(kind).build(3)
    there = Model(kind).build(3)
    there.precision = precision
    there.to("cuda")
    expected = host(ids)
    y = there(cupy.asarray(ids))
    close = 1e-5 if precision == "float32" else 0.1
    np.testing.assert_allclose(y.get().astype(np.float32), expected, rtol=close, atol=close)
    host.backward(dy)
    there.backward(cupy.asarray(dy.astype(y.dtype)))
    for (name, p), q in zip(host.named_parameters(), there.parameters(), strict=True):
        size = np.abs(p.grad).max()
        error = np.abs(q.grad.get() - p.grad).max()
        assert error <= (1e-4 if precision == "float32" else 0.1) * size, name


@pytest.mark.parametrize("scaling", [None, {"rope_type": "dynamic", "factor": 2.0}])
def test_tables_stay_where_they_are(scaling: Any, cupy: Any):
    """A captured graph reads the tables of its first step, whatever is computed in between."""
    layer = nn.RotaryPositions(WIDTH, scaling=scaling, context=6)
    fixed = nn.SinusoidalPositions(WIDTH)
    x = np.random.default_rng(0).standard_normal((1, 9, 1, WIDTH)).astype(np.float32)
    on_gpu = cupy.asarray(x)
    y, z = cupy.empty(x.shape, np.float32), None
    with layer.no_save(), fixed.no_save():
        layer(on_gpu, out=y)
        fixed(on_gpu.reshape(1, 9, WIDTH))
        made = [a for tables in layer._tables.values() for pair in tables for a in pair]
        made += [a for tables in fixed._tables.values() for a in tables]
        addresses = [a.data.ptr for a in made]
        long = cupy.asarray(np.ones((1, 70, 1, WIDTH), np.float32))
        layer(long)
        layer(on_gpu, start=90)
        fixed(long.reshape(1, 70, WIDTH))
        z = layer(on_gpu)
    held = [a for tables in layer._tables.values() for pair in tables for a in pair]
    held += [a for tables in fixed._tables.values() for a in tables]
    assert addresses == [a.data.ptr for a in held if any(a is b for b in made)]
    assert z.get().tobytes() == y.get().tobytes()


def test_positions_on_a_gpu_need_a_context(cupy: Any):
    x = cupy.asarray(np.ones((1, 2, 1, WIDTH), np.float32))
    positions = cupy.asarray(np.array([[3, 1]]))
    with pytest.raises(ValueError, match="positions on a GPU need a layer with a context"):
        nn.RotaryPositions(WIDTH)(x, positions)
    y = nn.RotaryPositions(WIDTH, context=5)(x, positions)
    expected = nn.RotaryPositions(WIDTH)(x.get(), positions.get())
    np.testing.assert_allclose(y.get(), expected, rtol=1e-6)
    with pytest.raises(TypeError, match="SinusoidalPositions: positions must be a numpy array"):
        nn.SinusoidalPositions(WIDTH)(x.reshape(1, 2, WIDTH), positions)
