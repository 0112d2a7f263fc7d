"""What `print` shows of a module."""

from __future__ import annotations

import numpy as np

from byhand import GPT, MLP, GPTConfig, MLPConfig, nn
from byhand.nn import init


def test_a_model_is_shown_as_a_tree():
    model = MLP(MLPConfig(5, 3, (7,), dropout=0.1))
    assert repr(model).splitlines() == [
        "MLP, 66 parameters",
        "  layers: Sequential, 66",
        "    0: Linear, 42: weight (7, 5), bias (7,)",
        "    1: GELU(approximate='none')",
        "    2: Dropout(p=0.1)",
        "    3: Linear, 24: weight (3, 7), bias (3,)",
    ]


def test_equal_blocks_are_shown_once_and_shared_parameters_named():
    model = GPT(GPTConfig(17, 9, 12, 3, 4))
    lines = repr(model).splitlines()
    assert lines[0] == f"GPT, {model.num_parameters():,} parameters"
    assert "    blocks.0 to blocks.3, each: Block(norm_first=True), 1,884" in lines
    assert lines[-1] == "  head: Linear, 204: weight (17, 12) shared with decoder.tokens.weight"
    assert len(lines) == 18
    model.freeze("decoder.blocks.1.norm1.bias")
    changed = repr(model)
    assert "weight (12,), bias (12,) frozen" in changed
    assert "blocks.0: Block" in changed
    assert "blocks.2 to blocks.3, each: Block" in changed


def test_what_is_not_built_and_what_is_no_parameter_is_shown_too():
    layer = nn.Sequential(nn.Linear(2, 3, bias=False))
    layer.table = nn.Buffer((4,), init.ones)
    assert repr(layer).splitlines() == [
        "Sequential, 6 parameters: table (4,) buffer",
        "  0: Linear, 6: weight (3, 2)",
    ]
    layer.itself = layer
    assert repr(layer).splitlines()[-1] == "  itself: Sequential (contains itself)"


def test_showing_changes_nothing():
    model = GPT(GPTConfig(17, 9, 12, 3, 2))
    before = model.storage.values.copy()
    repr(model)
    assert np.array_equal(model.storage.values, before)
