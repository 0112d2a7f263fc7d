"""What is said about a loss that is not finite."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from byhand import GPT, GPTConfig
from byhand.training.finite import Diverged, first_not_finite, require_finite

CONFIG = GPTConfig(11, context_size=6, embedding_dim=8, num_heads=2, num_layers=2, dropout=0.1)
NAMES = [name for name, _ in GPT(CONFIG).named_parameters()]


def made(**changes: Any) -> tuple[GPT, list[tuple[np.ndarray, np.ndarray]]]:
    ids = np.random.default_rng(2).integers(0, 11, (2, 2, 3, 6))
    return GPT(GPTConfig(**{**CONFIG.to_dict(), **changes}), seed=1), [(a, b) for a, b in ids]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("value", "word"), [(math.nan, "NaN"), (-math.inf, "infinite")])
def test_a_weight_is_named_and_else_its_gradient(name, value, word):
    model, batches = made()
    p = dict(model.named_parameters())[name]
    how = rf"{name} is not finite ({word} in 2 of {p.size} numbers)"
    p.grad.flat[[1, -1]] = value
    assert first_not_finite(model, batches) == (
        f", because the gradient of {how}, though all weights are"
    )
    p.value.flat[[1, -1]] = value
    assert first_not_finite(model, batches) == f", because {how}"


def test_the_first_weight_and_the_last_layer_s_gradient_are_named():
    model, batches = made()
    model.arena.grads[...] = math.nan
    assert "the gradient of norm.bias is" in first_not_finite(model, batches)
    model.arena.values[...] = math.nan
    assert first_not_finite(model, batches).startswith(", because tokens.weight is")


@pytest.mark.parametrize(
    ("weights", "layer"),
    [
        (("tokens.weight", "positions.weight"), "positions"),
        (("blocks.0.norm1.weight", "blocks.0.attention.qkv.weight"), "blocks.0.attention.qkv"),
        (
            ("blocks.1.attention.qkv.bias", "blocks.1.attention.project.weight"),
            "blocks.1.attention.project",
        ),
        (("blocks.1.ffn.up.bias", "blocks.1.ffn.down.weight"), "blocks.1.ffn"),
        (("norm.bias", "head.weight"), "head"),
    ],
)
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_layer_is_named_whose_output_is_too_large(weights, layer, dropout):
    model, batches = made(tie_weights=False, dropout=dropout)
    for name in weights:
        dict(model.named_parameters())[name].value[...] = 3e38 if layer == "positions" else 1e38
    found = first_not_finite(model, batches)
    assert found.startswith(f", because the output of {layer} is not finite")
    assert found.endswith(", though all weights are")


def test_looking_changes_nothing():
    model, batches = made()
    before = model.arena.values.copy(), model.generator.state()
    model.arena.grads[5] = math.inf
    with pytest.raises(Diverged, match=r"^step 3: the gradient's norm is inf, because the gr") as e:
        require_finite("step 3", (2.0, math.inf), model, batches, 7, [(2.5, 1.0)])
    assert e.value.before == [(2.5, 1.0)]
    assert (model.arena.values == before[0]).all()
    assert model.generator.state() == before[1]
    assert np.count_nonzero(model.arena.grads) == 1
    assert not any("forward" in vars(module) for _, module in model.named_modules())
    model.zero_grad()  # no forward pass waits
    assert first_not_finite(model, batches) == ""
    require_finite("step 4", (2.0, None), model, batches, 7)


def test_masks_of_the_step_are_drawn_again():
    """Behind one mask a product overflows, behind another it does not."""
    model, batches = made(dropout=0.5, vocabulary_size=11)
    seen = []
    plain = model.dropout.forward

    def forward(x: np.ndarray) -> np.ndarray:
        seen.append(plain(x))
        return seen[-1]

    model.dropout.forward = forward  # type: ignore[method-assign]
    model.generator.count = 40
    model.loss(*batches[0])
    with pytest.raises(Diverged, match=r"^now: the training loss is nan$"):
        require_finite("now", (math.nan, None), model, batches, 40)
    assert (seen[0] == seen[1]).all()
    assert (seen[1] != seen[2]).any()
    assert model.dropout.forward is forward


def test_without_memory_for_a_forward_pass_gradients_are_looked_at(monkeypatch):
    model, batches = made()

    def full(*arguments: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(model.blocks[1], "forward", full)
    model.arena.grads[5] = math.nan
    assert "the gradient of tokens.weight is not finite" in first_not_finite(model, batches)
