"""Models that are changed after they were built, or built wrongly: nothing is lost, and what fails
changes nothing.
"""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from byhand import nn, optim
from byhand.nn import init


class Two(nn.Module):
    def __init__(self):
        self.body = nn.Linear(4, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.body(x))

    def backward(self, dy):
        return self.body.backward(self.head.backward(dy))


def values_of(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.copy() for name, value in module.state_dict().items()}


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    assert all(np.array_equal(a[name], b[name]) for name in a)


def order_of(module: nn.Module) -> list[str]:
    return [p.name for p in module.storage.params]


def update(optimizer: optim.AdamW) -> None:
    optimizer.model.storage.grads[...] = 1
    optimizer.step()


# --- Parts replaced and removed -------------------------------------------------------------------


def test_a_model_whose_head_was_replaced_is_built_again():
    model = Two().build(1)
    body = values_of(model.body)
    model.head = nn.Linear(5, 7)
    model.build(2)
    assert_same(values_of(model.body), body)
    assert model.storage.values.size == model.num_parameters() == 4 * 5 + 5 + 5 * 7 + 7
    before = model.head.weight.value.copy()
    update(optim.AdamW(model))
    assert (model.head.weight.value != before).all()


def test_a_changed_model_becomes_a_part_of_a_larger_one():
    model = Two().build()
    model.head = nn.Linear(5, 7)
    larger = nn.Sequential(model, nn.Linear(7, 2)).build()
    assert larger.storage.values.size == larger.num_parameters()


def test_a_removed_part_is_no_longer_in_memory():
    model = Two()
    model.more = nn.Linear(2, 2)
    model.build()
    del model.more
    with pytest.raises(RuntimeError, match=r"more\.bias is no longer a part of the model"):
        optim.AdamW(model)
    model.build()
    assert model.storage.values.size == model.num_parameters()
    optim.AdamW(model)


def test_an_optimizer_would_not_train_a_part_with_memory_of_its_own():
    model = Two().build()
    model.head = nn.Linear(5, 7).build()
    with pytest.raises(RuntimeError, match=r"head\.weight is not in the memory of the model"):
        optim.AdamW(model)
    optim.AdamW(model.build())


def test_freezing_reaches_a_part_with_memory_of_its_own():
    model = Two().build()
    model.head = nn.Linear(5, 7).build()
    model.freeze()
    assert [p.grad for p in model.parameters()] == [None] * 4


def test_a_part_without_parameters_cannot_be_built_out_of_its_model():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).build()
    with pytest.raises(ValueError, match="part of a model that is built already"):
        model[1].build(seed=5)
    assert model[1].generator is model.generator


def test_two_tensors_of_one_path_are_refused():
    model = Two()
    model.more = {0: nn.Linear(2, 2), "0": nn.Linear(2, 2)}
    with pytest.raises(ValueError, match=r"two different tensors have the path 'more\.0\.weight'"):
        model.build()


def test_a_key_of_a_dict_may_begin_with_an_underscore():
    model = Two()
    model.words = {"_unknown": nn.Linear(2, 2)}
    assert "words._unknown.weight" in model.build().state_dict()


# --- What fails changes nothing -------------------------------------------------------------------


def wrong_parameter() -> nn.Module:
    return nn.Linear(3, 2, bias_init=lambda rng, shape: np.zeros(3, np.float32))


def wrong_buffer() -> nn.Module:
    layer = nn.Linear(3, 2)
    layer.table = nn.Buffer((3, 4), lambda rng, shape: np.ones(1))
    return layer


@pytest.mark.parametrize("wrong", [wrong_parameter, wrong_buffer])
def test_a_build_that_fails_leaves_its_parts_alone(wrong):
    model = Two().build()
    optimizer = optim.AdamW(model)
    before, storage = values_of(model), model.storage
    with pytest.raises(ValueError, match=r"the initialiser of 1\..* must give shape"):
        nn.Sequential(model, wrong()).build()
    assert model.is_root
    assert model.storage is storage
    assert [p.name for p in model.parameters()] == list(before)
    assert all(np.shares_memory(p.value, storage.values) for p in model.parameters())
    assert_same(values_of(model), before)
    update(optimizer)


def test_unfreezing_that_is_refused_changes_nothing():
    model = Two()
    model.packed = nn.Parameter((3,), init.ones, trainable=False, dtype=np.int8)
    model.build().freeze()
    with pytest.raises(ValueError, match="packed is kept in int8"):
        model.unfreeze()
    assert not any(p.trainable for p in model.parameters())


def test_a_buffer_of_another_shape_is_refused_when_it_is_moved():
    model = Two()
    model.table = nn.Buffer((3,), init.zeros)
    model.build()
    model.table.value = np.zeros(1, np.float32)
    with pytest.raises(ValueError, match=r"buffer table must have shape \(3,\), got \(1,\)"):
        model.to(dtype="float64")


def test_a_list_is_no_array():
    model = Two().build()
    before = values_of(model)
    state = {**before, "head.bias": [0.0, 0.0, 0.0]}
    state["body.weight"] = np.zeros((5, 4), np.float32)
    with pytest.raises(TypeError, match=r"load_state_dict: head\.bias must be an array, got list"):
        model.load_state_dict(state)
    assert_same(values_of(model), before)


@pytest.mark.parametrize("wrong", [0.5, 300.0, np.nan])
def test_integers_take_only_what_they_can_hold(wrong):
    model = Two()
    model.packed = nn.Parameter((2,), init.ones, trainable=False, dtype=np.int8)
    model.build()
    given = np.array([7.0, wrong], np.float32)
    state = {name: np.zeros(a.shape, np.float32) for name, a in values_of(model).items()}
    before = values_of(model)
    with pytest.raises(ValueError, match="packed is kept in int8, which cannot hold"):
        model.load_state_dict({**state, "packed": given})
    with pytest.raises(ValueError, match="parameter packed is kept in int8"):
        model.packed.value = given
    assert_same(values_of(model), before)
    model.load_state_dict({**state, "packed": np.array([7.0, -8.0])})
    assert model.packed.value.tolist() == [7, -8]


# --- Freezing and gradients -----------------------------------------------------------------------


def test_the_order_of_memory_does_not_depend_on_what_was_frozen_before():
    model = Two().build()
    before = order_of(model)
    model.freeze("body.*")
    assert order_of(model) != before
    model.unfreeze()
    assert order_of(model) == before


def test_trainable_is_set_before_building_only():
    weight = nn.Parameter((2,), init.ones)
    weight.trainable = False
    assert not weight.trainable
    model = Two().build()
    with pytest.raises(RuntimeError, match=r"body\.weight: .* call freeze\(\) or unfreeze\(\)"):
        model.body.weight.trainable = False
    assert model.body.weight.trainable


def test_assigning_a_gradient_copies_it_in():
    model = Two().build()
    p = model.head.bias
    p.grad = np.array([1, 2, 3], np.float32)
    p.grad += 1
    p.grad = p.grad * 2
    assert model.storage.grads.sum() == 2 * (2 + 3 + 4)
    for wrong in (np.ones(4, np.float32), None):
        with pytest.raises(ValueError, match=r"gradient of parameter head\.bias must have shape"):
            p.grad = wrong
    model.freeze("head.bias")
    with pytest.raises(ValueError, match=r"head\.bias is frozen"):
        p.grad = np.ones(3, np.float32)


@pytest.mark.parametrize("shape", [(2, 3.5), (-1,), 3, ("2",)])
def test_a_shape_is_a_tuple_of_integers(shape):
    for kind in (nn.Parameter, nn.Buffer):
        with pytest.raises(ValueError, match="shape must be a tuple of integers >= 0, got"):
            kind(shape, init.zeros)


# --- Copies of several things at once -------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_part_copied_before_its_model_stays_a_part(copied):
    model = Two().build()
    optimizer = optim.AdamW(model)
    update(optimizer)
    part, whole, other = copied((model.body, model, optimizer))
    assert whole.is_root
    assert not part.is_root
    assert whole.body is part
    assert other.model is whole
    assert part.storage is whole.storage
    assert order_of(whole) == order_of(model)
    assert not np.shares_memory(whole.storage.values, model.storage.values)
    update(optimizer)
    update(other)
    assert_same(values_of(whole), values_of(model))


def test_two_parts_copied_together_are_two_models():
    model = Two().build()
    for part, original in zip(
        copy.deepcopy((model.body, model.head)), (model.body, model.head), strict=True
    ):
        assert part.is_root
        assert part.storage.values.size == original.num_parameters()
        assert_same(values_of(part), values_of(original))
        optim.AdamW(part)


def test_tied_parts_copied_before_their_model():
    class Tied(Two):
        def __init__(self):
            super().__init__()
            self.twin = nn.Linear(4, 5)
            self.twin.weight = self.body.weight

    model = Tied().build()
    body, twin, whole = copy.deepcopy((model.body, model.twin, model))
    assert whole.is_root
    assert whole.body is body
    assert whole.twin is twin
    assert twin.weight is body.weight
    assert_same(values_of(whole), values_of(model))
    optim.AdamW(whole)


# --- Pickles of parts -----------------------------------------------------------------------------


def test_a_pickled_part_does_not_carry_its_model():
    model = nn.Sequential(nn.Linear(300, 300), Two(), nn.Dropout(0.5)).build(7)
    model.storage.grads[...] = 1
    model.generator.next()
    values = values_of(model[1])
    pickled = pickle.dumps(model[1])
    assert len(pickled) < 4000 < model[0].weight.value.nbytes < len(pickle.dumps(model))
    part = pickle.loads(pickled)
    assert part.is_root
    assert part.storage.values.size == part.num_parameters() == 43
    assert_same(values_of(part), values)
    assert [p.name for p in part.parameters()] == list(values)
    assert part.head.storage is part.storage
    assert part.generator.state_dict() == {"seed": 7, "count": 1}
    x = np.ones((2, 4), np.float32)
    assert np.array_equal(part(x), model[1](x))
    part.backward(np.ones((2, 3), np.float32))
    optim.AdamW(part).step()
    assert_same(values_of(model[1]), values)


def test_a_pickled_part_keeps_what_is_frozen_and_its_dtype():
    model = nn.Sequential(Two(), nn.Linear(3, 2)).build(1, dtype="float64")
    model.freeze("0.body.*")
    part = pickle.loads(pickle.dumps(model[0]))
    assert part.storage.values.dtype == np.float64
    assert [name for name, p in part.named_parameters() if p.trainable] == [
        "head.weight",
        "head.bias",
    ]
    assert_same(values_of(part), values_of(model[0]))
    layer = pickle.loads(pickle.dumps(model[0].head.weight))
    assert not layer.built
    assert layer.shape == (3, 5)


def test_a_pickled_model_is_whole():
    model = Two()
    model.twin = nn.Linear(5, 3)
    model.twin.weight = model.head.weight
    model.table = nn.Buffer((3,), init.ones)
    model.build(1)
    model.storage.grads[...] = np.arange(model.storage.grads.size)
    model.table.value[...] = 5
    other = pickle.loads(pickle.dumps(model))
    assert other.is_root
    assert order_of(other) == order_of(model)
    assert np.array_equal(other.storage.grads, model.storage.grads)
    assert np.array_equal(other.storage.values, model.storage.values)
    assert other.twin.weight is other.head.weight
    assert (other.table.value == 5).all()
    assert all(m.storage is other.storage for _, m in other.named_modules())
    assert all(np.shares_memory(p.value, other.storage.values) for p in other.parameters())
    assert [p.name for p in other.parameters()] == [p.name for p in model.parameters()]
    other.zero_grad()
    assert not other.storage.grads.any()
    assert model.storage.grads.any()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (0, 2, 1)])
def test_parts_and_their_model_pickled_in_any_order_belong_together(order):
    model = Two().build(1)
    things = model.body, model.head, model
    copies = pickle.loads(pickle.dumps([things[i] for i in order]))
    body, head, whole = (copies[order.index(i)] for i in range(3))
    assert whole.is_root
    assert not body.is_root
    assert (whole.body, whole.head) == (body, head)
    assert body.storage is head.storage is whole.storage
    assert all(np.shares_memory(p.value, whole.storage.values) for p in whole.parameters())
    assert_same(values_of(whole), values_of(model))
    update(optim.AdamW(whole))


def test_a_shallow_copy_has_the_same_parts():
    model = Two().build(1)
    for original in (model, model.body):
        other = copy.copy(original)
        assert other.storage is model.storage
        assert [id(p) for p in other.parameters()] == [id(p) for p in original.parameters()]
    assert model.is_root
    update(optim.AdamW(model))
