"""The error message for a loss or gradient that is not finite."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from byhand import GPT, GPTConfig
from byhand.tasks import LanguageModel
from byhand.training.finite import Diverged, first_not_finite, require_finite

CONFIG = GPTConfig(11, context_size=6, embedding_dim=8, num_heads=2, num_layers=2, dropout=0.1)
NAMES = [name for name, _ in GPT(CONFIG).named_parameters()]


def made(**changes: Any) -> tuple[LanguageModel, list[dict[str, np.ndarray]]]:
    ids = np.random.default_rng(2).integers(0, 11, (2, 2, 3, 6))
    model = GPT(CONFIG.replace(**changes), seed=1)
    return LanguageModel(model), [{"ids": a, "targets": b} for a, b in ids]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("value", "word"), [(math.nan, "NaN"), (-math.inf, "infinite")])
def test_a_non_finite_weight_or_gradient_is_named(name, value, word):
    task, batches = made()
    model = task.model
    p = dict(model.named_parameters())[name]
    how = rf"{name} is not finite ({word} in 2 of {p.size} numbers)"
    p.grad.flat[[1, -1]] = value
    assert first_not_finite(task, batches) == (
        f", because the gradient of {how}, though all weights are"
    )
    p.value.flat[[1, -1]] = value
    assert first_not_finite(task, batches) == f", because {how}"


def test_the_first_weight_and_the_last_layer_s_gradient_are_named():
    task, batches = made()
    model = task.model
    model.storage.grads[...] = math.nan
    assert "the gradient of decoder.norm.bias is" in first_not_finite(task, batches)
    model.storage.values[...] = math.nan
    assert first_not_finite(task, batches).startswith(", because decoder.tokens.weight is")


@pytest.mark.parametrize(
    ("weights", "layer"),
    [
        (("decoder.tokens.weight", "decoder.positions.weight"), "decoder.positions"),
        (
            ("decoder.blocks.0.norm1.weight", "decoder.blocks.0.attention.qkv.weight"),
            "decoder.blocks.0.attention.qkv",
        ),
        (
            ("decoder.blocks.1.attention.qkv.bias", "decoder.blocks.1.attention.project.weight"),
            "decoder.blocks.1.attention.project",
        ),
        (
            ("decoder.blocks.1.ffn.up.bias", "decoder.blocks.1.ffn.down.weight"),
            "decoder.blocks.1.ffn",
        ),
        (("decoder.norm.bias", "head.weight"), "the loss that is computed from the last layer"),
    ],
)
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_layer_whose_output_overflows_is_named(weights, layer, dropout):
    task, batches = made(tie_weights=False, dropout=dropout)
    model = task.model
    for name in weights:
        large = 3e38 if layer.endswith("positions") else 1e38
        dict(model.named_parameters())[name].value[...] = large
    found = first_not_finite(task, batches)
    what = layer if layer.startswith("the loss") else f"the output of {layer}"
    assert found.startswith(f", because {what} is not finite")
    assert found.endswith(", though all weights are")


def test_the_search_changes_nothing():
    task, batches = made()
    model = task.model
    before = model.storage.values.copy(), model.generator.state_dict()
    model.storage.grads[5] = math.inf
    with pytest.raises(Diverged, match=r"^step 3: the gradient's norm is inf, because the gr") as e:
        require_finite("step 3", (2.0, math.inf), task, batches, 7, [(2.5, 1.0)])
    assert e.value.before == [(2.5, 1.0)]
    assert (model.storage.values == before[0]).all()
    assert model.generator.state_dict() == before[1]
    assert np.count_nonzero(model.storage.grads) == 1
    assert not any("forward" in vars(module) for _, module in model.named_modules())
    model.zero_grad()  # raises if a forward pass were still saved
    assert first_not_finite(task, batches) == ""
    require_finite("step 4", (2.0, None), task, batches, 7)


def test_masks_of_the_step_are_drawn_again():
    """With the dropout mask of the step a product overflows, with another mask it does not."""
    task, batches = made(dropout=0.5, vocabulary_size=11)
    model = task.model
    seen = []
    plain = model.decoder.dropout.forward

    def forward(x: np.ndarray) -> np.ndarray:
        seen.append(plain(x))
        return seen[-1]

    model.decoder.dropout.forward = forward  # type: ignore[method-assign]
    model.generator.count = 40
    task.loss(batches[0], 1.0)
    with pytest.raises(Diverged, match=r"^now: the training loss is nan$"):
        require_finite("now", (math.nan, None), task, batches, 40)
    assert (seen[0] == seen[1]).all()
    assert (seen[1] != seen[2]).any()
    assert model.decoder.dropout.forward is forward


def test_without_memory_for_a_forward_pass_gradients_are_examined(monkeypatch):
    task, batches = made()
    model = task.model

    def full(*arguments: Any, **options: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(model.decoder.blocks[1], "forward", full)
    model.storage.grads[5] = math.nan
    assert "the gradient of decoder.tokens.weight is not finite" in first_not_finite(task, batches)
