"""What a user may assign or change in place has the effect it looks like, or is refused."""

from __future__ import annotations

import re

import numpy as np
import pytest

from byhand import GPT, MLP, GPTConfig, MLPConfig, nn, optim
from byhand.errors import UserError
from byhand.nn import init
from byhand.tasks import Classification

CONFIG = GPTConfig(17, 9, 12, 3, 2)
IDS, TARGETS = np.random.default_rng(0).integers(0, 17, (2, 4, 7))


def gpt(**options) -> GPT:
    return GPT(CONFIG.replace(**options), seed=1)


# --- Inputs changed between the forward and the backward pass -------------------------------------


@pytest.mark.parametrize("untied", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
def test_ids_and_targets_may_be_changed_after_loss(untied, recompute):
    grads = []
    for change in (False, True):
        model = GPT(CONFIG.replace(tie_weights=not untied), seed=1, recompute=recompute)
        ids, targets = IDS.copy(), TARGETS.copy()
        model.loss(ids, targets)
        if change:
            ids[...] = 3
            targets[...] = -100
        model.backward()
        grads.append(model.storage.grads.copy())
    assert np.array_equal(*grads)


def test_ids_and_targets_may_be_changed_with_a_head_of_ones_own():
    grads = []
    for change in (False, True):
        model = gpt(tie_weights=False)
        model.head = nn.Linear(12, 17)  # with a bias, so not the fused kernel
        model.build(seed=2)
        ids, targets = IDS.copy(), TARGETS.copy()
        model.loss(ids, targets)
        if change:
            ids[...], targets[...] = 3, 5
        model.backward()
        grads.append(model.storage.grads.copy())
    assert np.array_equal(*grads)


def test_ids_of_an_embedding_may_be_changed():
    layer = nn.Embedding(5, 3).build()
    ids = np.array([1, 4])
    layer(ids)
    ids[...] = 0
    layer.backward(np.ones((2, 3), np.float32))
    assert layer.weight.grad.any(1).tolist() == [False, True, False, False, True]


@pytest.mark.parametrize("name", ["lengths", "mask"])
def test_lengths_and_masks_may_be_changed(name):
    given = {"lengths": np.array([2, 5]), "mask": np.tri(5, dtype=bool)[None, None]}[name]
    x = np.random.default_rng(3).standard_normal((2, 5, 6), dtype=np.float32)
    results = []
    for change in (False, True):
        layer = nn.MultiHeadAttention(6, 2).build(1)
        mine = given.copy()
        layer(x, **{name: mine})
        if change:
            mine[...] = 1
        results += [layer.backward(x), layer.qkv.weight.grad.copy()]
    assert np.array_equal(results[0], results[2])
    assert np.array_equal(results[1], results[3])


@pytest.mark.parametrize("name", ["x", "labels", "scale"])
def test_the_batch_of_a_classifier_may_be_changed(name):
    rng = np.random.default_rng(4)
    grads = []
    batch = {"x": rng.standard_normal((6, 4), dtype=np.float32), "labels": rng.integers(0, 3, 6)}
    for change in (False, True):
        task = Classification(MLP(MLPConfig(4, 3, (5,)), seed=1))
        mine = {key: array.copy() for key, array in batch.items()}
        mine["scale"] = np.array(0.5, np.float32)
        task.loss({"x": mine["x"], "labels": mine["labels"]}, mine["scale"])
        if change:
            mine[name][...] = 1
        task.backward()
        grads.append(task.model.storage.grads.copy())
    assert np.array_equal(*grads)


def test_arrays_with_gaps_are_taken():
    """As a window of token ids, cut into ids and targets, has."""
    windows = np.random.default_rng(5).integers(0, 17, (4, 8))
    losses, grads = [], []
    for ids, targets in (
        (windows[:, :-1], windows[:, 1:]),
        (windows[:, :-1].copy(), windows[:, 1:].copy()),
    ):
        model = gpt()
        losses.append(float(model.loss(ids, targets)))
        model.backward()
        grads.append(model.storage.grads.copy())
        with model.no_save():
            assert np.array_equal(model(ids), model(ids.copy()))
    assert losses[0] == losses[1]
    assert np.array_equal(*grads)


# --- Weights changed between the passes -----------------------------------------------------------


def test_a_step_before_the_backward_pass_is_refused():
    model = gpt()
    optimizer = optim.AdamW(model)
    before = model.storage.values.copy()
    model.loss(IDS, TARGETS)
    with pytest.raises(RuntimeError, match=r"AdamW\.step: 1 forward pass.* had no backward pass"):
        optimizer.step()
    assert optimizer.step_count == 0
    assert np.array_equal(model.storage.values, before)
    model.backward()
    optimizer.step()
    assert optimizer.step_count == 1


# --- Parameters -----------------------------------------------------------------------------------


def test_a_gradient_of_none_is_refused_and_does_not_freeze():
    model = gpt()
    with pytest.raises(ValueError, match=r"gradient of parameter decoder\.norm\.weight must"):
        model.decoder.norm.weight.grad = None
    assert model.decoder.norm.weight.trainable


def test_what_is_assigned_to_a_value_is_computed_with_and_saved():
    model = gpt()
    p = model.decoder.blocks[0].ffn.up.weight
    assigned = np.full(p.shape, 0.25)
    p.value = assigned
    assert (p.compute_value == 0.25).all()
    assert (model.state_dict()["decoder.blocks.0.ffn.up.weight"] == 0.25).all()
    other = gpt()
    other.load_state_dict(model.state_dict())
    with model.no_save(), other.no_save():
        assert np.array_equal(model(IDS), other(IDS))
        assert not np.array_equal(gpt().inference()(IDS), model(IDS))
    assigned[...] = 7  # a copy was taken
    assert (p.value == 0.25).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [("compute_value", np.zeros(12)), ("shape", (3,)), ("dtype", np.float64), ("built", False)],
)
def test_what_a_built_parameter_cannot_change_is_refused(name, value):
    p = gpt().decoder.norm.weight
    with pytest.raises(AttributeError, match=name):
        setattr(p, name, value)


def test_decay_set_before_the_optimizer_is_used_and_after_it_is_noticed():
    model = nn.Linear(3, 2).build()
    model.weight.decay, model.bias.decay = False, True
    assert model.storage.decaying == 2
    model.bias.value = np.ones(2)
    before = model.state_dict()["weight"].copy()
    optimizer = optim.AdamW(model, lr=0.5, weight_decay=0.5)
    optimizer.step()
    assert np.array_equal(model.weight.value, before)
    assert (model.bias.value == 0.75).all()
    model.weight.decay = True
    with pytest.raises(RuntimeError, match=r"were moved \(by to, freeze, decay"):
        optimizer.step()
    model.weight.decay = True  # changes nothing
    optimizer = optim.AdamW(model, lr=0.5, weight_decay=0.5)
    optimizer.step()
    assert np.array_equal(model.weight.value, before * np.float32(0.75))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.ones(3) * 1j, "complex128"),
        (np.array(["a", "b", "c"]), "<U1"),
        (np.array([None] * 3), "object"),
        (np.full(3, 1e300), "the values given"),
    ],
)
def test_values_that_the_dtype_cannot_hold_are_refused(value, message):
    layer = nn.Linear(2, 3).build()
    before = layer.bias.value.copy()
    for refused in (
        lambda: setattr(layer.bias, "value", value),
        lambda: setattr(layer.bias, "grad", value),
        lambda: layer.load_state_dict({**layer.state_dict(), "bias": value}),
    ):
        with pytest.raises(
            ValueError, match=f"bias is kept in float32, which cannot hold .*{message}"
        ):
            refused()
    assert np.array_equal(layer.bias.value, before)


@pytest.mark.parametrize("name", ["weight", "table", "layer"])
def test_a_part_is_not_replaced_by_a_plain_value(name):
    module = nn.Linear(2, 3)
    module.table = nn.Buffer((2,), init.zeros)
    module.layer = nn.Dropout(0.5)
    module.build()
    for value in (0.5, np.zeros((3, 2), np.float32), "x"):
        with pytest.raises(
            TypeError, match=rf"^Linear\.{name} is a \w+, got {type(value).__name__}"
        ):
            setattr(module, name, value)
    module.layer = None


# --- Weights that are not numbers -----------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_unless_allowed(bad):
    model = gpt()
    before = model.storage.values.copy()
    state = {name: value.copy() for name, value in model.state_dict().items()}
    state["decoder.norm.bias"][4] = bad
    state["decoder.norm.weight"][...] = 3
    message = "load_state_dict: decoder.norm.bias is not finite: 1 of 12 numbers are NaN or"
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        model.load_state_dict(state)
    assert np.array_equal(model.storage.values, before)
    model.load_state_dict(state, allow_non_finite=True)
    np.testing.assert_equal(model.decoder.norm.bias.value[4], np.float32(bad))


def test_moments_that_are_not_finite_are_refused():
    model = gpt()
    optimizer = optim.AdamW(model)
    state = optimizer.state_dict()
    bad = {name: array.copy() for name, array in state["v"].items()}
    bad["decoder.norm.bias"][0] = np.nan
    with pytest.raises(ValueError, match=r"v of decoder\.norm\.bias is not finite"):
        optimizer.load_state_dict({**state, "v": bad})
    bad["decoder.norm.bias"] = bad["decoder.norm.bias"] * 1j
    with pytest.raises(ValueError, match=r"v of decoder\.norm\.bias is kept in float32, which"):
        optimizer.load_state_dict({**state, "v": bad})
    assert not optimizer.slots["v"].any()


def test_the_names_of_a_state_dict_must_be_the_models():
    model = gpt()
    state = dict(model.state_dict())
    with pytest.raises(ValueError, match=r"unknown parameters: extra, more$"):
        model.load_state_dict({**state, "extra": np.zeros(1), "more": np.zeros(1)})
    del state["decoder.norm.bias"]
    with pytest.raises(ValueError, match=r"missing parameters: decoder\.norm\.bias$"):
        model.load_state_dict(state)
    with pytest.raises(TypeError, match="takes a dict of arrays by path, got list"):
        model.load_state_dict(list(state))


# --- Settings of models and optimizers ------------------------------------------------------------


@pytest.mark.parametrize("model", [gpt(), MLP(MLPConfig(4, 3))])
def test_the_configuration_of_a_model_is_fixed(model):
    with pytest.raises(AttributeError, match="config"):
        model.config = model.config.replace(dropout=0.5)
    with pytest.raises(AttributeError, match="dropout"):
        model.config.dropout = 0.5


@pytest.mark.parametrize(("name", "value"), [("betas", (0.5, 0.5)), ("betas", 0.9), ("eps", 1.0)])
def test_settings_that_are_fixed_are_refused(name, value):
    optimizer = optim.AdamW(gpt())
    with pytest.raises(AttributeError, match=f"AdamW: {name} is fixed when the optimizer is made"):
        setattr(optimizer, name, value)
    assert (optimizer.betas, optimizer.eps) == ((0.9, 0.999), 1e-8)


def test_the_names_of_a_group_are_read_only():
    optimizer = optim.AdamW(nn.Linear(3, 2).build())
    optimizer.groups[0].names.append("x")
    assert optimizer.groups[0].names == ["weight", "bias"]
    with pytest.raises(AttributeError, match="names"):
        optimizer.groups[0].names = []


def test_the_probability_of_dropout_may_be_set():
    layer = nn.Dropout(0.1).build()
    x = np.ones((50, 50), np.float32)
    layer.p = 0.75
    assert abs((layer(x) == 0).mean() - 0.75) < 0.05
    layer.p = 2.0
    with pytest.raises(ValueError, match=r"p must be at least 0 and less than 1, got 2\.0"):
        layer(x)


# --- Parts replaced after the optimizer was made --------------------------------------------------


def replace_head(model: GPT) -> None:
    model.head = nn.Linear(12, 17, bias=False).build()


def replace_block(model: GPT) -> None:
    model.decoder.blocks[0] = type(model.decoder.blocks[0])(CONFIG).build()


def add_part(model: GPT) -> None:
    model.extra = nn.Linear(2, 2).build()


def remove_block(model: GPT) -> None:
    model.decoder.blocks.pop()


def replace_parameter(model: GPT) -> None:
    model.decoder.norm.bias = None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replace_head, r"head\.weight is not in the memory of the model"),
        (replace_block, r"decoder\.blocks\.0\.\S+ is not in the memory of the model"),
        (add_part, r"extra\.weight is not in the memory of the model"),
        (remove_block, r"decoder\.blocks\.1\.\S+ is no longer a part of the model"),
        (replace_parameter, r"decoder\.norm\.bias is no longer a part of the model"),
    ],
)
def test_the_optimizer_notices_a_changed_part(change, message):
    model = gpt(tie_weights=False)
    optimizer = optim.AdamW(model)
    optimizer.step()
    change(model)
    before = model.storage.values.copy()
    with pytest.raises(RuntimeError, match=f"^AdamW: {message}"):
        optimizer.step()
    assert np.array_equal(model.storage.values, before)
    optim.AdamW(model.build()).step()


def test_a_change_that_leaves_the_parameters_is_taken():
    model = gpt()
    optimizer = optim.AdamW(model)
    model.tokenizer = object()
    model.decoder.norm.eps = 1e-3
    optimizer.step()
    optimizer.step()
    assert optimizer.step_count == 2


# --- Shared parameters ----------------------------------------------------------------------------


@pytest.mark.parametrize("match", ["head.*", ["head.weight"], lambda name: name[:4] == "head"])
def test_a_shared_parameter_is_frozen_by_each_of_its_paths(match):
    model = gpt()
    model.freeze(match)
    assert [name for name, p in model.named_parameters() if not p.trainable] == [
        "decoder.tokens.weight"
    ]
    assert model.head.weight.grad is None
    before = model.head.weight.value.copy()
    model.loss(IDS, TARGETS)
    model.backward()
    optim.AdamW(model).step()
    assert np.array_equal(model.head.weight.value, before)
    model.unfreeze(match)
    assert model.head.weight.trainable


@pytest.mark.parametrize("params", [["head.weight"], lambda name: name.startswith("head.")])
def test_a_group_finds_a_shared_parameter_by_each_of_its_paths(params):
    optimizer = optim.AdamW(gpt(), groups=[{"params": params, "lr": 1e-4}])
    assert optimizer.groups[0].names == ["decoder.tokens.weight"]


def test_a_shared_layer_is_frozen_by_each_of_its_paths():
    layer = nn.Linear(2, 2)
    model = nn.Sequential(layer, nn.GELU(), layer).build()
    model.freeze("2.weight")
    assert not layer.weight.trainable
    assert layer.bias.trainable
