"""Layers and the machinery under them."""

from __future__ import annotations

import numpy as np
import pytest

from byhand import gradcheck, nn
from byhand.nn.module import normal


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
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
    gradcheck(randomised(nn.LayerNorm(6, bias)), x_of(3, 4, 6))


def test_embedding_adds_up_rows_read_twice():
    ids = np.array([[1, 4, 1], [0, 1, 4]])
    gradcheck(randomised(nn.Embedding(5, 3)), ids)
    layer = nn.Embedding(5, 3).to(dtype="float64")
    layer(ids)
    dy = x_of(2, 3, 3)
    layer.backward(dy)
    assert np.allclose(layer.weight.grad[1], dy[0, 0] + dy[0, 2] + dy[1, 1])
    assert not layer.weight.grad[2].any()


class WithAdd(nn.Module):
    """Calls a layer as ``layer(x, add=...)``, and keeps for it what it does not keep itself."""

    def __init__(self, layer: nn.Module):
        self.layer = layer

    def forward(self, x):
        self.push(x)
        return self.layer(x, add=x)

    def backward(self, dy):
        return self.layer.backward(dy, self.pop()) + dy


def generator_and_rng():
    return nn.Generator(3), np.random.default_rng(3)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("bias", [True, False])
def test_attention_and_feed_forward_with_residual(dropout, bias):
    generator, rng = generator_and_rng()
    attention = nn.CausalSelfAttention(6, 2, dropout, bias, generator, rng, 0.02)
    gradcheck(randomised(WithAdd(attention)), x_of(2, 5, 6))
    ffn = nn.FeedForward(6, dropout, bias, generator, rng, 0.02)
    gradcheck(randomised(WithAdd(ffn)), x_of(2, 5, 6))


def test_block():
    generator, rng = generator_and_rng()
    gradcheck(randomised(nn.Block(6, 3, 0.0, True, generator, rng, 0.02)), x_of(2, 4, 6))


def test_a_norm_gives_its_result_again():
    norm = nn.LayerNorm(17)
    norm.weight.value[...] = x_of(17)
    first, second = (norm(x_of(2, 17).astype(np.float32) + i) for i in range(2))
    assert norm.again().tobytes() == second.tobytes()  # of the pass whose backward is next
    norm.backward(second)
    assert norm.again().tobytes() == first.tobytes()
    norm.backward(first)
    with pytest.raises(RuntimeError, match=r"LayerNorm\.backward was called without"):
        norm.again()


def test_a_block_keeps_nothing_of_what_its_norms_give():
    """Of (B, T, C) arrays in bytes: x, the middle of the residual stream, q, k, v, o, and four for
    the feed-forward layer; and some statistics.
    """
    generator, rng = generator_and_rng()
    block = nn.Block(64, 2, 0.0, True, generator, rng, 0.02)
    x = np.ones((4, 32, 64), np.float32)
    block(x)
    kept: dict[int, int] = {}
    for _, module in block.named_modules():
        for saved in module.__dict__.get("_saved", ()):
            for array in saved or ():
                if isinstance(array, np.ndarray) and array.shape[:2] in ((4, 32), (4, 2)):
                    while isinstance(array.base, np.ndarray):
                        array = array.base
                    kept[array.ctypes.data] = array.nbytes
    assert 10 <= sum(kept.values()) / x.nbytes < 10.5


def test_dropout_is_the_identity_when_inactive():
    layer = nn.Dropout(0.5, nn.Generator(0))
    x = x_of(3, 4).astype(np.float32)
    layer.eval()
    assert layer(x) is x
    layer.train()
    assert not np.array_equal(layer(x), x)
    assert layer.backward(x) is not x
    off = nn.Dropout(0.0, nn.Generator(0))
    assert off(x) is x
    assert off.backward(x) is x


def test_dropout_redraws_its_own_mask_in_backward():
    layer = nn.Dropout(0.5, nn.Generator(0))
    x = np.ones((7, 33), np.float32)
    first, second = layer(x).copy(), layer(x).copy()
    assert not np.array_equal(first, second)
    assert np.array_equal(layer.backward(x), second)  # last in, first out
    assert np.array_equal(layer.backward(x), first)


def test_backward_without_forward_says_so():
    with pytest.raises(RuntimeError, match=r"Linear\.backward was called without a forward"):
        nn.Linear(2, 3).backward(np.zeros((1, 3), np.float32))


def test_no_save_nests_and_restores():
    layer = nn.Linear(2, 3)
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
    b.load_state(a.state())
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


def test_decayed_parameters_come_first_in_the_arena():
    module = nn.Block(4, 2, 0.0, True, *generator_and_rng(), 0.02)
    arena = module.arena
    assert arena.decayed == sum(p.size for p in module.parameters() if p.value.ndim >= 2)
    assert all(p.decays for p in arena.params[:4])
    assert not any(p.decays for p in arena.params[4:])


def test_normal_has_the_asked_spread():
    values = normal(np.random.default_rng(0), (300, 300), 0.02)
    assert values.dtype == np.float32
    assert abs(values.std() / 0.02 - 1) < 0.02
    assert abs(values.mean()) < 3e-4
