"""Layers, dropout masks, and what layers save for their backward passes."""

from __future__ import annotations

import numpy as np
import pytest

from byhand import GPTConfig, gradcheck, nn
from byhand.models import gpt


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    module.build(seed)
    rng = np.random.default_rng(seed)
    for p in module.parameters():
        p.value[...] += rng.standard_normal(p.shape)
    return module


def x_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal(shape)


@pytest.mark.parametrize("bias", [True, False])
def test_linear(bias):
    gradcheck(randomised(nn.Linear(5, 7, bias)), x_of(2, 3, 5))


@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm(bias):
    gradcheck(randomised(nn.LayerNorm(6, bias=bias)), x_of(3, 4, 6))


def test_rms_norm():
    gradcheck(randomised(nn.RMSNorm(6)), x_of(3, 4, 6))


class Residual(nn.Module):
    """The norm of a residual sum, where the sum is a part of the result too."""

    def __init__(self, norm: nn.Module):
        self.norm = norm

    def forward(self, x):
        y, s = self.norm.forward_add(x, 3 * x)
        return y + 2 * s

    def backward(self, dy):
        return 4 * self.norm.backward(dy, 2 * dy)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_the_norm_of_a_residual_sum(norm):
    gradcheck(Residual(randomised(norm(6))), x_of(3, 4, 6))
    x, add = x_of(3, 4, 6).astype(np.float32), x_of(3, 4, 6).astype(np.float32)
    layer = randomised(norm(6))
    with layer.no_save():
        y, s = layer.forward_add(x, add)
        assert np.array_equal(s, x + add)
        assert np.array_equal(y, layer(x + add))


def test_embedding_adds_up_rows_read_twice():
    ids = np.array([[1, 4, 1], [0, 1, 4]])
    gradcheck(randomised(nn.Embedding(5, 3)), ids)
    layer = nn.Embedding(5, 3).build(dtype="float64")
    layer(ids)
    dy = x_of(2, 3, 3)
    layer.backward(dy)
    assert np.allclose(layer.weight.grad[1], dy[0, 0] + dy[0, 2] + dy[1, 1])
    assert not layer.weight.grad[2].any()


class WithAdd(nn.Module):
    """Calls a layer as ``layer(norm(x), add=x, again=...)``."""

    def __init__(self, layer: nn.Module):
        self.norm, self.layer = nn.LayerNorm(6), layer

    def forward(self, x):
        return self.layer(self.norm(x), add=x, again=self.norm.again)

    def backward(self, dy):
        return self.norm.backward(self.layer.backward(dy), add=dy)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("bias", [True, False])
def test_attention_and_feed_forward_with_residual(dropout, bias):
    attention = nn.MultiHeadAttention(
        6, 2, causal=True, bias=bias, dropout=dropout, residual_dropout=dropout
    )
    gradcheck(randomised(WithAdd(attention)), x_of(2, 5, 6))
    ffn = nn.FeedForward(6, 24, "gelu_new", bias, dropout)
    gradcheck(randomised(WithAdd(ffn)), x_of(2, 5, 6))
    gradcheck(randomised(WithAdd(nn.Linear(6, 6, bias))), x_of(2, 5, 6))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_attention_equals_pytorch(bias, causal):
    torch = pytest.importorskip("torch")
    layer = randomised(nn.MultiHeadAttention(12, 3, causal=causal, bias=bias)).to(dtype="float64")
    twin = torch.nn.MultiheadAttention(12, 3, bias=bias, batch_first=True, dtype=torch.float64)
    state = {"in_proj_weight": layer.qkv.weight, "out_proj.weight": layer.project.weight}
    if bias:
        state |= {"in_proj_bias": layer.qkv.bias, "out_proj.bias": layer.project.bias}
    twin.load_state_dict({n: torch.from_numpy(p.value) for n, p in state.items()})
    x, memory, dy = x_of(2, 5, 12), x_of(2, 4, 12) + 1, x_of(2, 5, 12) - 1
    lengths = np.array([4, 2])
    for cross in (False, True):
        if cross and causal:
            continue
        inputs = [torch.tensor(a, requires_grad=True) for a in ((x, memory) if cross else (x,))]
        keys = inputs[-1]
        hidden = torch.from_numpy(np.arange(keys.shape[1]) >= lengths[:, None])
        ahead = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1) if causal else None
        theirs, _ = twin(inputs[0], keys, keys, key_padding_mask=hidden, attn_mask=ahead)
        twin.zero_grad()
        theirs.backward(torch.from_numpy(dy))
        layer.zero_grad()
        y = layer(x, memory, lengths=lengths) if cross else layer(x, lengths=lengths)
        dx = layer.backward(dy)
        np.testing.assert_allclose(y, theirs.detach(), rtol=1e-9, atol=1e-12)
        for mine, other in zip(dx if cross else (dx,), inputs, strict=True):
            np.testing.assert_allclose(mine, other.grad, rtol=1e-9, atol=1e-12)
        for name, p in state.items():
            expected = dict(twin.named_parameters())[name].grad
            np.testing.assert_allclose(p.grad, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2])
def test_shared_keys_equal_repeated_heads(groups):
    """A key head shared by several query heads gives the result of one copy per query head."""
    shared = randomised(nn.MultiHeadAttention(8, 4, groups)).inference()
    whole = nn.MultiHeadAttention(8, 4).build().inference()
    for name in ("weight", "bias"):
        packed = getattr(shared.qkv, name).value
        q, k, v = np.split(packed, [8, 8 + 2 * groups])
        heads = [np.repeat(a.reshape(groups, 2, -1), 4 // groups, 0).reshape(8, -1) for a in (k, v)]
        full = np.concatenate([q.reshape(8, -1), *heads]).reshape(getattr(whole.qkv, name).shape)
        getattr(whole.qkv, name).value = full
        getattr(whole.project, name).value = getattr(shared.project, name).value
    x = x_of(2, 5, 8).astype(np.float32)
    np.testing.assert_allclose(shared(x), whole(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
def test_feed_forward_equals_pytorch(activation):
    torch = pytest.importorskip("torch")
    layer = randomised(nn.FeedForward(5, 7, activation)).to(dtype="float64")
    x = torch.tensor(x_of(3, 5), requires_grad=True)
    up, down = (
        (torch.from_numpy(part.weight.value), torch.from_numpy(part.bias.value))
        for part in (layer.up, layer.down)
    )
    form = {"gelu": "none", "gelu_new": "tanh"}[activation]
    f = torch.nn.functional
    theirs = f.linear(f.gelu(f.linear(x, *up), approximate=form), *down)
    theirs.backward(torch.from_numpy(x_of(3, 5)))
    np.testing.assert_allclose(layer(x_of(3, 5)), theirs.detach(), rtol=1e-9)
    np.testing.assert_allclose(layer.backward(x_of(3, 5)), x.grad, rtol=1e-9)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu(approximate):
    gradcheck(nn.GELU(approximate), x_of(3, 5))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.MultiHeadAttention(7, 2), "dim must be a multiple of num_heads, got 7 and 2"),
        (lambda: nn.MultiHeadAttention(8, 4, 3), "must be a multiple of num_kv_heads, got 4 and 3"),
        (lambda: nn.FeedForward(4, 8, "relu6"), "activation must be one of gelu, .* got 'relu6'"),
        (lambda: nn.GELU("exact"), "approximate must be 'none' or 'tanh', got 'exact'"),
        (lambda: nn.Dropout(1.0), "p must be at least 0 and less than 1, got 1.0"),
    ],
)
def test_wrong_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_sequential_reaches_its_layers():
    model = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2))
    assert next(iter(model.named_parameters()))[0] == "0.weight"
    assert len(model) == 3
    assert model[-1] is list(model)[2]
    gradcheck(model, x_of(5, 3))
    model[1] = nn.GELU("tanh")
    assert model[1].approximate == "tanh"
    with pytest.raises(TypeError, match="Sequential: layer 1 must be a Module, got 3"):
        nn.Sequential(nn.GELU(), 3)


@pytest.mark.parametrize("layer", [nn.LayerNorm, nn.RMSNorm])
def test_a_norm_recomputes_its_result(layer):
    norm = layer(17).build()
    norm.weight.value[...] = x_of(17)
    first = norm(x_of(2, 17).astype(np.float32))
    second, _ = norm.forward_add(x_of(2, 17).astype(np.float32), np.ones((2, 17), np.float32))
    assert norm.again().tobytes() == second.tobytes()  # of the pass whose backward is next
    norm.backward(second)
    assert norm.again().tobytes() == first.tobytes()
    norm.backward(first)
    with pytest.raises(RuntimeError, match=r"Norm\.backward was called without"):
        norm.again()


def flattened(saved):
    if isinstance(saved, tuple):
        for part in saved:
            yield from flattened(part)
    else:
        yield saved


def test_a_block_does_not_save_the_results_of_its_norms():
    """The saved bytes are those of these arrays of shape (B, T, C): x, the residual stream between
    the layers, q, k, v, o, and four for the feed-forward layer; plus some statistics.
    """
    block = gpt.Block(GPTConfig(5, 32, 64, 2, 1)).build()
    x = np.ones((4, 32, 64), np.float32)
    block(x)
    kept: dict[int, int] = {}
    for _, module in block.named_modules():
        for saved in module.__dict__.get("_saved", ()):
            for array in flattened(saved):
                if isinstance(array, np.ndarray) and array.shape[:2] in ((4, 32), (4, 2)):
                    while isinstance(array.base, np.ndarray):
                        array = array.base
                    kept[array.ctypes.data] = array.nbytes
    assert 10 <= sum(kept.values()) / x.nbytes < 10.5


def test_dropout_is_the_identity_when_inactive():
    layer = nn.Dropout(0.5).build()
    x = x_of(3, 4).astype(np.float32)
    layer.eval()
    assert layer(x) is x
    layer.train()
    assert not np.array_equal(layer(x), x)
    assert layer.backward(x) is not x
    off = nn.Dropout(0.0)
    assert off(x) is x
    assert off.backward(x) is x


def test_dropout_redraws_its_own_mask_in_backward():
    layer = nn.Dropout(0.5).build()
    x = np.ones((7, 33), np.float32)
    first, second = layer(x).copy(), layer(x).copy()
    assert not np.array_equal(first, second)
    assert np.array_equal(layer.backward(x), second)  # last in, first out
    assert np.array_equal(layer.backward(x), first)


def test_backward_without_forward_is_an_error():
    with pytest.raises(RuntimeError, match=r"Linear\.backward was called without a forward"):
        nn.Linear(2, 3).build().backward(np.zeros((1, 3), np.float32))


def test_no_save_nests_and_restores():
    layer = nn.Linear(2, 3).build()
    x = np.zeros((1, 2), np.float32)
    with layer.no_save():
        layer(x)
        with layer.no_save():
            layer(x)
        layer(x)
    with pytest.raises(RuntimeError):
        layer.backward(np.zeros((1, 3), np.float32))
    layer(x)
    layer.backward(np.zeros((1, 3), np.float32))


def test_generator_state_round_trips():
    a, b = nn.Generator(5), nn.Generator(0)
    a.next(), a.next()
    b.load_state_dict(a.state_dict())
    assert a.next() == b.next()


def test_parameters_are_named_by_their_path_and_shared_ones_once():
    class Twice(nn.Module):
        def __init__(self):
            self.first = nn.Linear(3, 3, bias=False)
            self.second = nn.Linear(3, 3, bias=False)
            self.second.weight = self.first.weight
            self.rest = [nn.LayerNorm(3), nn.LayerNorm(3, bias=False)]

    names = [name for name, _ in Twice().named_parameters()]
    assert names == ["first.weight", "rest.0.weight", "rest.0.bias", "rest.1.weight"]
