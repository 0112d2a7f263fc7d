"""Every option of a layer and a model reaches what it is about: the result changes as the formula
says.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from byhand import GPT, MLP, GPTConfig, MLPConfig, nn, ops
from byhand.ops import philox

SEED = 11


def x_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal(shape)


def built(layer: nn.Module) -> nn.Module:
    """In float64, every parameter random."""
    layer.build(SEED, dtype="float64")
    rng = np.random.default_rng(1)
    for p in layer.parameters():
        p.value += 0.5 * rng.standard_normal(p.shape)
    return layer


def linear(layer: nn.Linear, x: np.ndarray) -> np.ndarray:
    y = x @ layer.weight.value.T
    return y if layer.bias is None else y + layer.bias.value


def dropped(x: np.ndarray, p: float, offset: int) -> np.ndarray:
    """Dropout with the mask of the model's generator at this draw."""
    kept = philox.keep(1, x.size, p, SEED, offset).reshape(x.shape)
    threshold = round(p * 65536)
    return np.where(kept, x * 65536 / (65536 - threshold), 0)


# --- Dropout --------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.9])
def test_dropout_zeroes_this_share_and_keeps_the_mean(p):
    layer = nn.Dropout(p).build(SEED)
    x = np.ones((400, 400), np.float32)
    y = layer(x)
    assert abs((y == 0).mean() - p) < 0.005
    assert np.allclose(y[y != 0], 1 / (1 - p), rtol=1e-4)
    assert np.array_equal(y, dropped(x, p, 0).astype(np.float32))
    assert np.array_equal(layer(x), dropped(x, p, 1).astype(np.float32))


def test_dropout_is_a_half_by_default():
    assert nn.Dropout().p == 0.5


@pytest.mark.parametrize("probability", [0.0, 0.4])
@pytest.mark.parametrize("residual", [0.0, 0.3])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_the_options_of_attention(probability, residual, causal, bias):
    layer = nn.MultiHeadAttention(
        12, 3, causal=causal, bias=bias, dropout=probability, residual_dropout=residual
    )
    built(layer)
    assert (layer.qkv.bias is not None) == (layer.project.bias is not None) == bias
    x, add = x_of(2, 5, 12), 3 * x_of(2, 5, 12)
    q, k, v = np.split(linear(layer.qkv, x).reshape(2, 5, 9, 4), 3, axis=2)
    scores = np.einsum("bthd,bshd->bhts", q, k) / np.sqrt(4)
    if causal:
        scores[..., np.triu(np.ones((5, 5), bool), 1)] = -np.inf
    attended = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    draws = 0
    if probability:
        kept = philox.keep(2 * 3 * 5, 5, probability, SEED, 0).reshape(attended.shape)
        attended = attended * kept * philox.rule(probability)[1]
        draws = 1
    y = linear(layer.project, np.einsum("bhts,bshd->bthd", attended, v).reshape(2, 5, 12))
    if residual:
        y = dropped(y, residual, draws)
    np.testing.assert_allclose(layer(x, add=add), y + add, rtol=1e-10, atol=1e-12)
    assert layer.generator.count == draws + bool(residual)


@pytest.mark.parametrize("kv_heads", [None, 1, 2, 4])
def test_the_key_heads_of_attention(kv_heads):
    layer = nn.MultiHeadAttention(8, 4, kv_heads).build()
    groups = 4 if kv_heads is None else kv_heads
    assert layer.qkv.weight.shape == ((4 + 2 * groups) * 2, 8)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "gelu_pytorch_tanh"])
@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("bias", [False, True])
def test_the_options_of_a_feed_forward_layer(activation, p, bias):
    layer = built(nn.FeedForward(5, 7, activation, bias, p))
    assert (layer.up.bias is not None) == (layer.down.bias is not None) == bias
    x, add = x_of(3, 5), 2 * x_of(3, 5)
    approximate = "none" if activation == "gelu" else "tanh"
    hidden, _ = ops.bias_gelu.forward(linear(layer.up, x), None, approximate)
    y = linear(layer.down, hidden)
    if p:
        y = dropped(y, p, 0)
    np.testing.assert_allclose(layer(x, add=add), y + add, rtol=1e-10, atol=1e-12)


def test_the_default_activations():
    assert nn.GELU().approximate == "none"
    assert nn.FeedForward(3, 4).activation == "gelu"


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_the_approximation_of_gelu(approximate):
    x = x_of(4, 5)
    expected = {
        "none": lambda u: 0.5 * u * (1 + np.vectorize(math.erf)(u / np.sqrt(2))),
        "tanh": lambda u: 0.5 * u * (1 + np.tanh(np.sqrt(2 / np.pi) * (u + 0.044715 * u**3))),
    }[approximate](x)
    np.testing.assert_allclose(nn.GELU(approximate)(x), expected, rtol=1e-12)


# --- Norms ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("eps", [1e-5, 0.5, 30.0])
@pytest.mark.parametrize("kind", ["LayerNorm", "LayerNorm without bias", "RMSNorm"])
def test_the_eps_of_a_norm_is_under_every_root(kind, eps, dtype):
    layer = nn.RMSNorm(6, eps) if kind == "RMSNorm" else nn.LayerNorm(6, eps, kind == "LayerNorm")
    built(layer).to(dtype=dtype)
    x, add = x_of(4, 6).astype(dtype), 2 * x_of(4, 6)[::-1].astype(dtype)

    def formula(s: np.ndarray) -> np.ndarray:
        s = s.astype(np.float64)
        if kind != "RMSNorm":
            s = s - s.mean(-1, keepdims=True)
        y = s / np.sqrt((s**2).mean(-1, keepdims=True) + eps) * layer.weight.value
        return y + layer.bias.value if kind == "LayerNorm" else y

    close = dict(rtol=1e-10) if dtype == "float64" else dict(rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(layer(x), formula(x), **close)
    assert np.array_equal(layer.again(), layer(x))
    y, s = layer.forward_add(x, add)
    np.testing.assert_allclose(s, x + add, **close)
    np.testing.assert_allclose(y, formula(x + add), **close)
    assert np.array_equal(layer.again(), y)


# --- Models ---------------------------------------------------------------------------------------

SIZES = dict(vocabulary_size=17, context_size=9, embedding_dim=12, num_heads=3, num_layers=2)


def test_the_dropout_of_a_gpt_reaches_all_its_places():
    model = GPT(GPTConfig(**SIZES, dropout=0.3))
    probabilities = [model.decoder.dropout.p]
    for block in model.decoder.blocks:
        probabilities += [block.attention.p, block.attention.dropout.p, block.ffn.dropout.p]
    assert probabilities == [0.3] * 7
    model.loss(*np.zeros((2, 1, 5), np.int64))
    assert model.generator.count == 7  # each is applied once
    assert GPTConfig(**SIZES).dropout == 0.0


@pytest.mark.parametrize("use_bias", [True, False])
def test_the_biases_of_a_gpt(use_bias):
    names = [name for name, _ in GPT(GPTConfig(**SIZES, use_bias=use_bias)).named_parameters()]
    biases = {name for name in names if name.endswith("bias")}
    assert bool(biases) == use_bias
    assert "head.bias" not in names
    weights = {name for name in names if name.endswith("weight")} - {
        "decoder.tokens.weight",
        "decoder.positions.weight",
    }
    if use_bias:
        assert biases == {name.removesuffix("weight") + "bias" for name in weights}


@pytest.mark.parametrize("field", sorted(SIZES))
def test_every_size_of_a_gpt_reaches_its_shapes(field):
    sizes = {**SIZES, field: SIZES[field] * 2}
    model = GPT(GPTConfig(**sizes, tie_weights=False))
    shapes = {name: p.shape for name, p in model.named_parameters()}
    width = sizes["embedding_dim"]
    assert shapes["decoder.tokens.weight"] == (sizes["vocabulary_size"], width)
    assert shapes["head.weight"] == (sizes["vocabulary_size"], width)
    assert shapes["decoder.positions.weight"] == (sizes["context_size"], width)
    assert len(model.decoder.blocks) == sizes["num_layers"]
    for block in model.decoder.blocks:
        assert block.attention.num_heads == sizes["num_heads"]
        assert block.attention.causal
        assert block.ffn.up.weight.shape == (4 * width, width)
        assert block.ffn.activation == "gelu_new"


def test_the_options_of_a_gpt_model():
    config = GPTConfig(**SIZES)
    assert GPT(config, precision="bf16").head.precision == "bf16"
    assert GPT(config).precision == "float32"
    assert GPT(config, recompute=True).decoder.recompute
    assert not GPT(config).decoder.recompute


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_the_options_of_an_mlp(dropout):
    model = built(MLP(MLPConfig(5, 3, (8, 4), dropout=dropout)))
    x = x_of(6, 5)
    expected, draws = x, 0
    layers = [layer for layer in model.layers if isinstance(layer, nn.Linear)]
    assert [layer.weight.shape for layer in layers] == [(8, 5), (4, 8), (3, 4)]
    for layer in layers[:-1]:
        expected, _ = ops.bias_gelu.forward(linear(layer, expected), None, "none")
        if dropout:
            expected = dropped(expected, dropout, draws)
            draws += 1
    np.testing.assert_allclose(model(x), linear(layers[-1], expected), rtol=1e-10)
    assert (MLPConfig(5, 3).hidden_sizes, MLPConfig(5, 3).dropout) == ((100,), 0.0)
