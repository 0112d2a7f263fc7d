"""The module protocol with blocks of every kind of transformer, adapters and running statistics,
each compared with finite differences in float64.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from byhand import gradcheck, nn, optim
from byhand.nn.gradcheck import GradcheckError
from tests.nn.blocks import BatchNorm, DecoderBlock, EncoderBlock, LoRA

SEEDS = range(20)


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    module.build(seed)
    rng = np.random.default_rng(seed + 100)
    for p in module.parameters():
        p.value = p.value + 0.3 * rng.standard_normal(p.shape)
    return module


def x_of(*shape: int, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


LENGTHS = np.array([3, 5])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_padded_post_norm_block(seed):
    gradcheck(randomised(EncoderBlock(6, 2), seed), x_of(2, 5, 6, seed=seed), LENGTHS)


def test_a_post_norm_block_with_dropout():
    gradcheck(randomised(EncoderBlock(6, 2, dropout=0.3)), x_of(2, 5, 6), LENGTHS)


def test_padding_changes_no_bit_of_a_row():
    block = randomised(EncoderBlock(6, 2)).inference()
    x = x_of(2, 5, 6).astype(np.float32)
    before = block(x, LENGTHS)
    x[0, 3:] = 1e3
    after = block(x, LENGTHS)
    assert np.array_equal(before[0, :3], after[0, :3])
    assert np.array_equal(before[1], after[1])


@pytest.mark.parametrize("kv_heads", [None, 2])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_cross_attention_block(seed, kv_heads):
    block = randomised(DecoderBlock(8, 4, kv_heads), seed)
    gradcheck(block, x_of(2, 5, 8, seed=seed), x_of(2, 3, 8, seed=seed + 1), np.array([2, 3]))


def test_gradcheck_finds_a_wrong_gradient_of_the_memory(monkeypatch):
    right = DecoderBlock.backward

    def wrong(self, dy):
        dx, dmemory = right(self, dy)
        return dx, 1.001 * dmemory

    monkeypatch.setattr(DecoderBlock, "backward", wrong)
    with pytest.raises(GradcheckError, match="gradient of input 1 is off by"):
        gradcheck(randomised(DecoderBlock(8, 4)), x_of(2, 5, 8), x_of(2, 3, 8))


@pytest.mark.parametrize("path", ["attention.qkv", "attention.project", "cross.qkv", "ffn.up",
                                  "ffn.down"])  # fmt: skip
@pytest.mark.parametrize("seed", [0, 1])
def test_an_adapter_can_replace_any_linear_layer(path, seed):
    block = DecoderBlock(8, 4)
    block.freeze()
    part, name = path.split(".")
    owner = getattr(block, part)
    setattr(owner, name, LoRA(getattr(owner, name)))
    randomised(block, seed)
    assert block.storage.grads.size < 0.1 * block.storage.values.size
    report = gradcheck(block, x_of(2, 5, 8), x_of(2, 3, 8))
    assert {f"{path}.a", f"{path}.b", "input 0", "input 1"} == set(report.errors)


def test_an_adapter_in_a_trained_model_keeps_what_was_trained():
    block = randomised(EncoderBlock(6, 2))
    before = {name: value.copy() for name, value in block.state_dict().items()}
    block.freeze()
    block.ffn.up = LoRA(block.ffn.up)
    block.build(seed=1)
    after = block.state_dict()
    for name, value in before.items():
        kept = after[name.replace("ffn.up.", "ffn.up.base.")]
        assert np.array_equal(kept, value), name
    assert not after["ffn.up.b"].any()
    assert after["ffn.up.a"].any()


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("seed", SEEDS)
def test_batch_norm_in_both_modes(seed, mode):
    layer = randomised(BatchNorm(5), seed)
    layer(x_of(7, 5, seed=seed).astype(np.float32))
    layer.discard_saved()
    getattr(layer, mode)()
    gradcheck(layer, x_of(7, 5, seed=seed + 1))


def test_buffers_are_saved_moved_copied_and_not_trained():
    layer = BatchNorm(5).build()
    x = x_of(50, 5).astype(np.float32) * 3 + 2
    for _ in range(100):
        layer(x)
        layer.pop()
    np.testing.assert_allclose(layer.running_mean.value, x.mean(0), rtol=1e-3)
    assert sorted(layer.state_dict()) == ["bias", "running_mean", "running_var", "weight"]
    assert layer.num_parameters() == 10
    other = BatchNorm(5).build()
    other.load_state_dict(layer.state_dict())
    assert np.array_equal(other.running_var.value, layer.running_var.value)
    copied = copy.deepcopy(layer)
    copied.running_mean.value[...] = 0
    assert layer.running_mean.value.any()
    layer.to(dtype="float64")
    assert layer.running_mean.value.dtype == np.float64
    layer.eval()
    np.testing.assert_allclose(layer(x.astype(np.float64)).mean(0), 0, atol=1e-3)


def layer_in_the_readme() -> type[nn.Module]:
    """The class `Scale`, from the README's own lines."""
    readme = Path(__file__).parents[2] / "README.md"
    text = readme.read_text(encoding="utf-8")
    (code,) = re.findall(r"^class Scale\(.*?(?=^\w)", text, flags=re.DOTALL | re.MULTILINE)
    assert len(code.strip().splitlines()) <= 20
    scope: dict[str, Any] = {"nn": nn}
    exec(code, scope)
    return scope["Scale"]


def test_a_layer_of_ones_own_trains():
    """The layer that the README shows, 20 lines at most with its backward pass."""
    scale = layer_in_the_readme()(4)
    model = nn.Sequential(nn.Linear(3, 4), scale, nn.GELU(), nn.Linear(4, 1))
    gradcheck(model, x_of(6, 3))
    model.build(seed=1)
    optimizer = optim.AdamW(model, lr=0.03, weight_decay=0.0)
    x = x_of(64, 3).astype(np.float32)
    target = np.sin(x.sum(-1, keepdims=True))
    losses = []
    for _ in range(300):
        model.zero_grad()
        y = model(x)
        losses.append(float(((y - target) ** 2).mean()))
        model.backward(2 * (y - target) / y.size)
        optimizer.step()
    assert losses[-1] < 0.1 * losses[0]
    assert (model[1].weight.value != 1).all()
