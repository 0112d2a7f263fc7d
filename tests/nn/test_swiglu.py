"""The gated feed-forward layer: the fused kernel, its parts called as layers, and PyTorch."""

from __future__ import annotations

import re

import numpy as np
import pytest

from byhand import gradcheck, nn, ops
from byhand.ops.precision import round_bf16

NAMES = ("silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "sigmoid")
activations = pytest.mark.parametrize("activation", NAMES)
biases = pytest.mark.parametrize("bias", [False, True])


class Adapter(nn.Module):
    """A linear layer in another's place: it is called as a layer, never fused."""

    def __init__(self, inner: nn.Linear):
        self.inner = inner
        self.calls = 0

    def forward(self, x, add=None, again=None):
        self.calls += 1
        return self.inner(x, add, again)

    def backward(self, dy):
        return self.inner.backward(dy)


class WithAdd(nn.Module):
    """x + layer(norm(x)), with the norm's result computed again."""

    def __init__(self, layer: nn.Module, dim: int):
        self.norm, self.layer = nn.RMSNorm(dim), layer

    def forward(self, x):
        return self.layer(self.norm(x), add=x, again=self.norm.again)

    def backward(self, dy):
        return self.norm.backward(self.layer.backward(dy), add=dy)


def made(seed: int = 0, **options) -> nn.SwiGLU:
    layer = nn.SwiGLU(5, 7, **options).build(seed)
    rng = np.random.default_rng(seed)
    for p in layer.parameters():
        p.value = rng.standard_normal(p.shape).astype(np.float32)
    return layer.to(dtype="float64")


def x_of(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def run(layer: nn.Module, x: np.ndarray, dy: np.ndarray, **options) -> list[np.ndarray]:
    layer.zero_grad()
    y = layer(x, **options)
    return [y, layer.backward(dy), *(p.grad.copy() for p in layer.parameters())]


@activations
@biases
def test_equals_pytorch(activation, bias):
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    function = {
        "silu": f.silu,
        "gelu": f.gelu,
        "sigmoid": torch.sigmoid,
    }.get(activation, lambda u: f.gelu(u, approximate="tanh"))
    for seed in range(3):
        layer = made(seed, activation=activation, bias=bias)
        x, add, dy = (x_of(2, 3, 5, seed=10 * seed + i) for i in range(3))
        leaves = {n: torch.tensor(p.value, requires_grad=True) for n, p in layer.named_parameters()}
        t = torch.tensor(x, requires_grad=True)

        def linear(u, name, leaves=leaves):
            return f.linear(u, leaves[f"{name}.weight"], leaves.get(f"{name}.bias"))

        y = linear(function(linear(t, "gate")) * linear(t, "up"), "down") + torch.from_numpy(add)
        y.backward(torch.from_numpy(dy))
        expected = [y.detach(), t.grad, *(leaf.grad for leaf in leaves.values())]
        for mine, theirs in zip(run(layer, x, dy, add=add), expected, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)


@activations
@pytest.mark.parametrize("replaced", ["gate", "up", "down"])
def test_a_replacement_of_a_part_is_called(activation, replaced):
    """With the same numbers as the fused kernel."""
    plain, other = (WithAdd(made(activation=activation, bias=True), 5) for _ in range(2))
    for module in (plain, other):
        module.build(2).to(dtype="float64")
    other.load_state_dict(plain.state_dict())
    adapter = Adapter(getattr(other.layer, replaced))
    setattr(other.layer, replaced, adapter)
    x, dy = x_of(3, 5), x_of(3, 5, seed=2)
    expected, got = run(plain, x, dy), run(other, x, dy)
    assert adapter.calls == 1
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


@activations
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_gradients(activation, dropout):
    for seed in range(20):
        layer = nn.SwiGLU(5, 7, seed % 2 == 1, activation, dropout)
        gradcheck(WithAdd(layer, 5).build(seed), x_of(2, 3, 5, seed=seed))


@pytest.mark.parametrize("activation", ["silu", "relu"])
def test_dropout_is_before_the_residual(activation):
    layer = made(activation=activation, dropout=0.5)
    x, add = x_of(40, 5), x_of(40, 5, seed=2)
    y = layer(x, add=add) - add
    layer.discard_saved()
    kept = y != 0
    assert 0.3 < kept.mean() < 0.7
    whole = layer.eval()(x)
    np.testing.assert_allclose(y[kept], 2 * whole[kept], rtol=1e-9, atol=1e-12)


def test_in_bf16_the_products_take_rounded_factors():
    layer = made().to(dtype="float32")
    layer.precision = "bf16"
    x = x_of(3, 5).astype(np.float32)
    y = layer(x)
    layer.discard_saved()
    w1, w3, w2 = (
        round_bf16(part.weight.value.astype(np.float64))
        for part in (layer.gate, layer.up, layer.down)
    )
    gate, up = round_bf16(x.astype(np.float64)) @ w1.T, round_bf16(x.astype(np.float64)) @ w3.T
    expected = round_bf16(gate / (1 + np.exp(-gate)) * up) @ w2.T
    np.testing.assert_allclose(y, expected, rtol=2.0**-7, atol=1e-2)
    layer.precision = "float32"
    assert np.abs(y - layer.to(dtype="float64").inference()(x.astype(np.float64))).max() > 1e-4


@pytest.mark.parametrize("frozen", ["gate", "up", "down"])
def test_a_frozen_part_gets_no_gradient(frozen):
    layer = made(bias=True)
    x, dy = x_of(3, 5), x_of(3, 5, seed=2)
    layer.zero_grad()
    layer(x)
    dx = layer.backward(dy)
    gradients = {n: p.grad.copy() for n, p in layer.named_parameters()}
    layer.freeze(lambda name: name.startswith(frozen))
    layer.zero_grad()
    layer(x)
    np.testing.assert_array_equal(layer.backward(dy), dx)
    for name, p in layer.named_parameters():
        if name.startswith(frozen):
            assert p.grad is None
        else:
            np.testing.assert_array_equal(p.grad, gradients[name])


def test_the_defaults():
    layer = nn.SwiGLU(3, 4)
    assert layer.activation == "silu"
    assert [name for name, _ in layer.named_parameters()] == [
        "gate.weight",
        "up.weight",
        "down.weight",
    ]


def test_the_operations_counted_are_those_of_the_three_products():
    fused, apart = (nn.SwiGLU(6, 20, activation=name).build() for name in ("silu", "relu"))
    assert fused.flops((2, 3, 6)) == (3 * 2 * 6 * 6 * 20, 2 * 3 * 2 * 6 * 6 * 20)
    assert apart.flops((2, 3, 6)) == (0, 0)  # its layers count their own


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nn.SwiGLU(4, 8, activation="slu"), "got 'slu' (did you mean silu?)"),
        (lambda: nn.SwiGLU(3, "6"), "SwiGLU: hidden must be a whole number"),
        (lambda: nn.SwiGLU(3, -1), "SwiGLU: hidden must be at least 0"),
        (lambda: nn.SwiGLU(3, 4, dropout=1.0), "must be at least 0 and less than 1"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        call()


def test_the_op_is_the_layer():
    layer = made(bias=True)
    x = x_of(3, 5)
    values = [p.value for p in layer.parameters()]
    y, _ = ops.swiglu_ffn.forward(x, *values)
    np.testing.assert_array_equal(layer.inference()(x), y)
