"""The memory of a model: its parts, larger models, copies, initial values, freezing, modes."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest

from byhand import GPT, GPTConfig, nn, optim
from byhand.nn import init
from byhand.nn.passes import Passes

CONFIG = GPTConfig(17, 9, 12, 3, 2, dropout=0.1)
IDS, TARGETS = np.random.default_rng(0).integers(0, 17, (2, 4, 7))


def train(model: GPT, optimizer: optim.AdamW, steps: int = 3) -> float:
    for _ in range(steps):
        model.zero_grad()
        loss = model.loss(IDS, TARGETS)
        model.backward()
        optimizer.step(clip_norm=1.0)
    return float(loss)


class Reward(nn.Module):
    """A GPT inside a larger model, one part of it in a dict and another named twice."""

    def __init__(self):
        self.policy = GPT(CONFIG, seed=3)
        self.head = {"value": nn.Linear(12, 1), "more": (nn.Linear(12, 2), [nn.LayerNorm(2)])}
        self.same = self.policy.decoder


# --- Parts of a model keep its memory -------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda part: part.zero_grad(),
        lambda part: part.storage,
        lambda part: part.state_dict(),
        lambda part: part.load_state_dict(copy.deepcopy(part.state_dict())),
        lambda part: part.discard_saved(),
        lambda part: copy.deepcopy(part),
        lambda part: pickle.dumps(part),
    ],
)
def test_a_call_on_a_part_keeps_it_in_the_models_memory(call):
    model = GPT(CONFIG, seed=1)
    optimizer = optim.AdamW(model, lr=1e-2)
    storage = model.storage
    call(model.decoder.blocks[0])
    assert all(p.storage is storage for p in model.parameters())
    assert all(np.shares_memory(p.value, storage.values) for p in model.parameters())
    before = {name: value.copy() for name, value in model.state_dict().items()}
    train(model, optimizer)
    for name, value in model.state_dict().items():
        assert not np.array_equal(value, before[name]), name
    model.zero_grad()
    assert not any(p.grad.any() for p in model.parameters())


def test_zeroing_a_part_zeroes_that_part():
    model = GPT(CONFIG, seed=1)
    model.storage.grads[...] = 1
    block = model.decoder.blocks[0]
    block.zero_grad()
    zeroed = {id(p) for p in block.parameters()}
    for p in model.parameters():
        assert (p.grad == (0 if id(p) in zeroed else 1)).all(), p.name


def test_a_part_cannot_be_built_out_of_its_model():
    model = GPT(CONFIG)
    with pytest.raises(ValueError, match=r"^Block.build: this is a part of a model that is built"):
        model.decoder.blocks[0].build()


def test_casting_a_part_casts_its_model_and_the_optimizer_raises():
    model = GPT(CONFIG)
    optimizer = optim.AdamW(model)
    model.decoder.norm.to(dtype="float64")
    assert {p.value.dtype for p in model.parameters()} == {np.dtype(np.float64)}
    with pytest.raises(RuntimeError, match=r"^AdamW: the model's parameters were moved .* new opt"):
        optimizer.step()


# --- Models in larger models ----------------------------------------------------------------------


def test_a_model_in_a_larger_one_uses_the_memory_of_the_larger_one():
    reward = Reward()
    policy, old = reward.policy, reward.policy.storage
    inner = optim.AdamW(policy)
    before = {name: value.copy() for name, value in policy.state_dict().items()}
    reward.build(seed=9)
    assert not old.valid
    assert policy.storage is reward.storage is reward.head["value"].storage
    assert all(np.array_equal(v, before[name]) for name, v in policy.state_dict().items())
    reward.storage.grads[...] = 1
    policy.zero_grad()
    assert not policy.head.weight.grad.any()
    assert reward.head["value"].weight.grad.all()
    with pytest.raises(RuntimeError, match=r"^AdamW: the model's parameters were moved"):
        inner.step()
    with pytest.raises(ValueError, match=r"^AdamW: this module is a part of a larger model"):
        optim.AdamW(policy)
    outer = optim.AdamW(reward, lr=1e-2)
    assert train(policy_of(reward), outer) > 0
    assert not np.array_equal(policy.decoder.norm.bias.value, before["decoder.norm.bias"])


def policy_of(reward: Reward) -> GPT:
    return reward.policy


def test_parts_in_dicts_and_tuples_are_found_and_shared_ones_once():
    reward = Reward().build()
    names = [name for name, _ in reward.named_parameters()]
    assert "head.value.weight" in names
    assert "head.more.0.bias" in names
    assert "head.more.1.0.weight" in names
    assert not any(name.startswith("same") for name in names)
    assert len(names) == len(set(map(id, reward.parameters())))
    modules = [name for name, _ in reward.named_modules()]
    assert "policy.decoder" in modules
    assert "same" not in modules
    assert set(reward.state_dict()) == set(names)


# --- Copies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_of_model_and_optimizer_trains_by_itself(copied):
    model = GPT(CONFIG, seed=1)
    optimizer = optim.AdamW(model, lr=1e-2)
    train(model, optimizer)
    other, its_optimizer = copied((model, optimizer))
    assert its_optimizer.model is other
    assert not np.shares_memory(other.storage.values, model.storage.values)
    assert all(np.shares_memory(p.value, other.storage.values) for p in other.parameters())
    assert other.head.weight is other.decoder.tokens.weight
    kept = model.storage.values.copy()
    first = train(other, its_optimizer)
    assert np.array_equal(model.storage.values, kept)
    assert train(model, optimizer) == first
    assert other.storage.values.tobytes() == model.storage.values.tobytes()


def test_a_copy_of_a_part_is_a_model_of_its_own():
    model = GPT(CONFIG, seed=1)
    block = copy.deepcopy(model.decoder.blocks[1])
    assert block.is_root
    assert block.storage.values.size == block.num_parameters() < model.num_parameters()
    assert all(
        np.array_equal(v, model.decoder.blocks[1].state_dict()[name])
        for name, v in block.state_dict().items()
    )
    optim.AdamW(block)
    assert model.storage.valid


def test_a_copy_has_no_saved_forward_passes():
    model = GPT(CONFIG)
    model(IDS)
    copy.deepcopy(model).zero_grad()
    model.discard_saved()


# --- Initial values -------------------------------------------------------------------------------


def test_two_layers_start_differently_and_the_same_seed_gives_the_same():
    one, other = (nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).build(5) for _ in range(2))
    assert not np.array_equal(one[0].weight.value, one[1].weight.value)
    assert np.array_equal(one[1].weight.value, other[1].weight.value)
    third = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).build(6)
    assert not np.array_equal(one[0].weight.value, third[0].weight.value)


def test_the_initial_values_of_a_parameter_do_not_depend_on_others():
    short = nn.Sequential(nn.Linear(3, 4)).build(5)
    long = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2), nn.LayerNorm(2)).build(5)
    assert np.array_equal(short[0].weight.value, long[0].weight.value)
    assert np.array_equal(short[0].bias.value, long[0].bias.value)


def test_the_initialisers_have_their_documented_spread():
    rng = np.random.default_rng(0)
    values = init.Normal(0.02)(rng, (300, 300))
    assert values.dtype == np.float32
    assert abs(values.std() / 0.02 - 1) < 0.02
    assert abs(values.mean()) < 3e-4
    values = init.Uniform(0.5)(rng, (300, 300))
    assert values.dtype == np.float32
    assert -0.5 <= values.min() < -0.499 < 0.499 < values.max() < 0.5
    assert abs(values.std() - 0.5 / np.sqrt(3)) < 2e-3
    layer = nn.Linear(400, 300).build()
    for p in layer.parameters():
        assert np.abs(p.value).max() == pytest.approx(1 / 20, rel=0.02)
    assert nn.Embedding(300, 300).build().weight.value.std() == pytest.approx(1, rel=0.02)


def test_a_gpt_has_its_documented_initial_values():
    model = GPT(GPTConfig(99, 50, 64, 4, 8), seed=2)
    for name, p in model.named_parameters():
        values = p.value
        if name.endswith("bias"):
            assert not values.any(), name
        elif "norm" in name:
            assert (values == 1).all(), name
        else:
            narrow = name.endswith(("project.weight", "down.weight"))
            std = 0.02 / 4 if narrow else 0.02
            assert values.std() == pytest.approx(std, rel=0.05), name


def test_undrawn_weights_are_loaded():
    model = GPT(CONFIG, seed=4)
    other = GPT(CONFIG, draw=False)
    other.load_state_dict(model.state_dict())
    assert other.storage.values.tobytes() == model.storage.values.tobytes()


def test_the_initialiser_is_checked():
    class Odd(nn.Module):
        def __init__(self):
            self.w = nn.Parameter((2, 3), lambda rng, shape: np.zeros((3, 2)))

    with pytest.raises(
        ValueError, match=r"initialiser of w must give shape \(2, 3\), got \(3, 2\)"
    ):
        Odd().build()
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        nn.Linear(2, 2).build(-1)


# --- Order, freezing ------------------------------------------------------------------------------


def test_the_order_is_decaying_other_frozen():
    model = GPT(CONFIG)
    storage = model.storage
    assert storage.decaying == sum(p.size for p in model.parameters() if len(p.shape) >= 2)
    model.freeze("decoder.blocks.0.*")
    assert model.storage is storage
    groups = [(p.trainable, p.decay) for p in storage.params]
    assert groups == sorted(groups, key=lambda g: (not g[0], not g[1]))
    trained = sum(p.size for p in model.parameters() if p.trainable)
    assert storage.grads.size == trained == model.num_parameters(trainable=True)
    assert np.shares_memory(model.decoder.norm.bias.value, storage.values[:trained])
    assert model.decoder.blocks[0].norm1.weight.grad is None


def test_freezing_keeps_values_and_stops_training_and_unfreezing_starts_it_again():
    model = GPT(CONFIG, seed=1)
    before = {name: value.copy() for name, value in model.state_dict().items()}
    model.freeze(["decoder.blocks.*", "decoder.tokens.weight"])
    assert all(np.array_equal(v, before[n]) for n, v in model.state_dict().items())
    train(model, optim.AdamW(model, lr=1e-2))
    frozen = [n for n in before if n.startswith(("decoder.blocks", "decoder.tokens"))]
    for name, value in model.state_dict().items():
        assert np.array_equal(value, before[name]) == (name in frozen), name
    model.unfreeze(lambda name: name.endswith("tokens.weight"))
    train(model, optim.AdamW(model, lr=1e-2))
    assert not np.array_equal(model.head.weight.value, before["decoder.tokens.weight"])
    with pytest.raises(ValueError, match=r"GPT has no parameter that matches 'decoder\.block'"):
        model.freeze("decoder.block")


def test_a_frozen_model_gives_the_gradient_of_its_input():
    layer = nn.Linear(3, 2).build()
    x = np.ones((4, 3), np.float32)
    layer(x)
    expected = layer.backward(np.ones((4, 2), np.float32))
    layer.freeze()
    layer(x)
    assert np.array_equal(layer.backward(np.ones((4, 2), np.float32)), expected)
    layer.zero_grad()


# --- Modes and what is saved ----------------------------------------------------------------------


def test_eval_changes_the_mode_only_and_inference_saves_nothing():
    model = GPT(CONFIG, seed=1).eval()
    loss = model.loss(IDS, TARGETS)
    model.backward()
    assert model.storage.grads.any()
    model.zero_grad()
    assert float(model.loss(IDS, TARGETS)) == float(loss)  # no dropout
    model.backward()
    model.zero_grad()
    model.inference()
    model.loss(IDS, TARGETS)
    with pytest.raises(RuntimeError, match=r"inference\(\) and no_save\(\) keep nothing"):
        model.backward()
    assert not model.storage.grads.any()
    assert model.train().training
    model.eval()
    with model.in_inference():
        model.decoder.norm.train()
    assert not model.decoder.norm.training
    assert model._saving


def test_accumulated_forward_passes_give_one_warning(monkeypatch):
    monkeypatch.setattr(Passes, "_has_warned", False)
    model = GPT(CONFIG)

    def many() -> None:
        for _ in range(70):
            model(IDS)

    with pytest.warns(nn.PilingUp, match=r"^64 forward passes of \w+ are kept in memory") as told:
        many()
    assert len(told) == 1
    model.discard_saved()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monkeypatch.setattr(Passes, "_has_warned", False)
        for _ in range(63):
            model(IDS)
        model.discard_saved()
        model.inference()
        for _ in range(70):
            model(IDS)


def test_using_what_is_not_built_is_an_error():
    layer = nn.Linear(3, 2)
    message = r"parameter of shape \(2, 3\) has no values yet: call build\(\) on the model"
    for use in (
        lambda: layer(np.ones((1, 3), np.float32)),
        lambda: layer.weight.value,
        layer.zero_grad,
    ):
        with pytest.raises(RuntimeError, match=message):
            use()
    for use in (lambda: layer.to(dtype="float64"), lambda: layer.storage):
        with pytest.raises(RuntimeError, match=r"Linear is not built: call build\(\) on the model"):
            use()
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)).build()
    model[1] = nn.Dropout(0.5)
    with pytest.raises(RuntimeError, match="Dropout is not built"):
        model(np.ones((1, 3), np.float32))


def test_assigning_a_value_copies_it_in():
    layer = nn.Linear(3, 2).build()
    layer.weight.value = np.full((2, 3), 2.0)
    assert (layer.storage.values[:6] == 2).all()
    assert layer(np.ones((1, 3), np.float32)) == pytest.approx((6 + layer.bias.value)[None])
    with pytest.raises(
        ValueError, match=r"parameter weight must have shape \(2, 3\), got \(3, 2\)"
    ):
        layer.weight.value = np.zeros((3, 2))


def test_a_frozen_parameter_may_have_a_dtype_of_its_own():
    class Table(nn.Module):
        def __init__(self):
            self.table = nn.Parameter((4, 3), init.ones, trainable=False, dtype=np.float64)
            self.weight = nn.Parameter((3,), init.ones)

    model = Table().build()
    assert model.table.value.dtype == np.float64
    assert model.weight.value.dtype == np.float32
    assert model.storage.values.size == 3
    other = copy.deepcopy(model)
    assert other.table.value.dtype == np.float64
    other.table.value[...] = 0
    assert model.table.value.all()
    with pytest.raises(ValueError, match="is kept in float64 and cannot be trained"):
        model.unfreeze()
    with pytest.raises(ValueError, match="only a frozen parameter has a dtype of its own"):
        nn.Parameter((3,), init.ones, dtype=np.float64)
