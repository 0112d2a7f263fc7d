"""Rows D13 to D16: the configuration, the feed-forward layer, the norm and the whole model."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from byhand import GPT, GPTConfig, gradcheck, nn
from byhand.demos.transformer import Transformer
from byhand.models import gpt
from byhand.ops import gelu_ffn, layernorm
from tests.guide.planted import planted

GUIDE = {
    "vocabulary_size": 17,
    "context_size": 9,
    "embedding_dim": 12,
    "heads_num": 3,
    "layers_num": 2,
    "dropout_rate": 0.1,
    "use_bias": False,
}
SHORT = {
    "vocab_size": 17,
    "block_size": 9,
    "n_embd": 12,
    "n_head": 3,
    "n_layer": 2,
    "dropout": 0.1,
    "bias": False,
}


@planted(
    "D13", "attention has biases whatever the configuration says", gpt, "MultiHeadAttention",
    lambda right: lambda *sizes, bias, **options: right(*sizes, **options),
)  # fmt: skip
def test_d13_the_configuration_takes_the_guides_names():
    config = GPTConfig(**GUIDE)
    assert config == GPTConfig(**SHORT)
    assert GPTConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    for name, bad in {
        "vocabulary_size": 0, "context_size": 1.5, "embedding_dim": -12, "heads_num": 5,
        "layers_num": "2", "dropout_rate": 1.0, "use_bias": 1,
    }.items():  # fmt: skip
        with pytest.raises((TypeError, ValueError), match="GPTConfig: "):
            GPTConfig(**{**GUIDE, name: bad})
    names = [name for name, _ in GPT(config).named_parameters()]
    assert not [name for name in names if name.endswith("bias")]
    with_biases = GPT(config.replace(use_bias=True))
    assert len([n for n, _ in with_biases.named_parameters() if n.endswith("bias")]) == 2 * 6 + 1


def gelu(x: np.ndarray, approximate: str) -> np.ndarray:
    if approximate == "tanh":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


@planted(
    "D14", "the fused kernel takes the exact form always", gelu_ffn, "forward",
    lambda right: lambda x, w1, b1, w2, b2, add=None, approximate="tanh", bf16=False: right(
        x, w1, b1, w2, b2, add, "none", bf16
    ),
)  # fmt: skip
def test_d14_the_feed_forward_layer():
    """Four times the width, GELU in both forms, and back; fused as unfused."""
    x = np.random.default_rng(0).standard_normal((2, 3, 6))
    for activation, form in (("gelu", "none"), ("gelu_new", "tanh")):
        layer = nn.FeedForward(6, 4 * 6, activation)
        gradcheck(layer, x)
        layer.build(seed=0)
        assert (layer.up.weight.shape, layer.down.weight.shape) == ((24, 6), (6, 24))
        up, down = ((p.weight.value, p.bias.value) for p in (layer.up, layer.down))
        by_hand = gelu(x @ up[0].T + up[1], form) @ down[0].T + down[1]
        for dtype in ("float32", "float64"):
            layer.to(dtype=dtype).inference()
            here = x.astype(dtype)
            unfused = layer.down(nn.GELU(form)(layer.up(here)))
            assert np.allclose(layer(here), unfused, atol=1e-6)
            assert abs(layer(here) - by_hand).max() < 2e-6
    # GELU has no corner at 0, where ReLU's slope jumps from 0 to 1, and both are 0 or x far away.
    z = np.array([-1e-3, 1e-3, -20.0, 20.0])
    y = nn.GELU()(z)
    assert (y[1] - y[0]) / 2e-3 == pytest.approx(0.5, abs=1e-3)
    assert np.allclose(y[2:], nn.ReLU()(z)[2:])


@planted(
    "D15", "the variance divides by N - 1", layernorm, "forward",
    lambda right: lambda x, w, b=None, eps=1e-5: (
        lambda y, saved: ((y * np.sqrt(1 - 1 / x.shape[-1])).astype(x.dtype), saved)
    )(*right(x, w, b, eps)),
)  # fmt: skip
def test_d15_a_layer_norm_has_mean_0_and_variance_1():
    rng = np.random.default_rng(0)
    x = (5 * rng.standard_normal((4, 7)) + 3).astype(np.float32)
    layer = nn.LayerNorm(7).build(seed=0)
    y = layer(x)
    assert np.allclose(y.mean(-1), 0, atol=1e-6)
    assert np.allclose(y.var(-1), 1, atol=1e-5)  # numpy's variance divides by N
    layer.weight.value, layer.bias.value = rng.standard_normal((2, 7), dtype=np.float32)
    small = 1e-3 * x.astype(np.float64)  # where eps counts
    normal = (small - small.mean(-1, keepdims=True)) / np.sqrt(small.var(-1, keepdims=True) + 1e-5)
    wanted = layer.weight.value * normal + layer.bias.value
    layer.discard_saved()
    assert np.allclose(layer.to(dtype="float64")(small), wanted, atol=1e-12)
    assert set(gradcheck(layer, x.astype(np.float64)).errors) == {"weight", "bias", "input 0"}
    # A constant row is finite, and so is its gradient.
    constant = nn.LayerNorm(7).build(seed=0)
    assert not constant(np.full((2, 7), 3, np.float32)).any()
    assert np.isfinite(constant.backward(np.ones((2, 7), np.float32))).all()


class WithResidual(nn.Module):
    """x + linear(norm(x)): the gradient of x is that of the sum and that through the layer."""

    def __init__(self):
        self.norm, self.linear = nn.LayerNorm(6), nn.Linear(6, 6)

    def forward(self, x):
        return self.linear(self.norm(x), x)

    def backward(self, dy):
        return self.norm.backward(self.linear.backward(dy), add=dy)


@planted(
    "D15", "the gradient does not go past the layer", layernorm, "backward",
    lambda right: lambda dy, saved, dw=None, db=None, add=None: right(dy, saved, dw, db),
)  # fmt: skip
def test_d15_a_residual_connection_adds_and_so_does_its_gradient():
    x = np.random.default_rng(1).standard_normal((3, 6))
    gradcheck(WithResidual(), x)
    module = WithResidual().build(seed=0).to(dtype="float64").inference()
    assert np.allclose(module(x) - x, module.linear(module.norm(x)), atol=1e-12)


def gpt_by_hand(weights: dict[str, np.ndarray], ids: np.ndarray, heads: int) -> np.ndarray:
    """The logits of GPT-2 (Radford et al., 2019) in numpy, from the names of `GPT.state_dict`."""

    def norm(x, name):
        normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return normal * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def attend(x, name):
        B, T, C = x.shape
        parts = np.split(linear(x, f"{name}.qkv"), 3, axis=-1)
        q, k, v = (a.reshape(B, T, heads, -1).transpose(0, 2, 1, 3) for a in parts)
        scores = q @ k.swapaxes(-1, -2) / math.sqrt(C / heads)
        e = np.where(np.tri(T, dtype=bool), np.exp(scores), 0)
        o = e / e.sum(-1, keepdims=True) @ v
        return linear(o.transpose(0, 2, 1, 3).reshape(B, T, C), f"{name}.project")

    table = weights["decoder.tokens.weight"]
    x = table[ids] + weights["decoder.positions.weight"][: ids.shape[1]]
    layers = sum(name.endswith("norm1.weight") for name in weights)
    for block in (f"decoder.blocks.{i}" for i in range(layers)):
        x = x + attend(norm(x, f"{block}.norm1"), f"{block}.attention")
        hidden = gelu(linear(norm(x, f"{block}.norm2"), f"{block}.ffn.up"), "tanh")
        x = x + linear(hidden, f"{block}.ffn.down")
    return norm(x, "decoder.norm") @ table.T


def without_the_second_residual(right):
    def forward(block, x, **options):
        x = block.attention(block.norm1(x), add=x, again=block.norm1.again, **options)
        return block.ffn(block.norm2(x), again=block.norm2.again)

    return forward


@planted(
    "D16", "a block lacks its second residual", gpt.Block, "forward", without_the_second_residual
)
def test_d16_the_whole_model():
    """The formula for the number of parameters, shapes, logits of GPT-2 written in numpy, the sum
    of the probabilities, and every gradient.
    """
    C, V, T, L = 12, 17, 9, 2
    model = GPT(GPTConfig(V, T, C, 3, L), seed=0).to(dtype="float64")
    assert model.num_parameters() == L * (12 * C * C + 13 * C) + (V + T) * C + 2 * C
    rng = np.random.default_rng(0)
    for p in model.parameters():
        p.value += 0.1 * rng.standard_normal(p.shape)
    ids, targets = rng.integers(0, V, (2, 4, 7))
    with model.in_inference():
        logits = model(ids)
    assert logits.shape == (4, 7, V)
    assert np.allclose(logits, gpt_by_hand(model.state_dict(), ids, heads=3), atol=1e-10)
    gradcheck(model, ids, targets, directions=1)
    found = Transformer()
    assert found.after.shape == found.x.shape
    assert np.allclose(found.p.sum(-1), 1, atol=1e-5)
    for _, by_formula, counted in found.counts:
        assert by_formula == counted
