"""Samplers: the right distribution or order, and exact continuation from a saved state."""

import json
import re
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from byhand.data import EpochSampler, RandomSampler
from byhand.errors import UserError

KINDS = (
    RandomSampler,
    EpochSampler,
    lambda *a, **k: EpochSampler(*a, **k, drop_last=True),
)
kinds = pytest.mark.parametrize("make", KINDS, ids=["random", "epoch", "epoch-drop-last"])
Make = Callable[..., Any]


def chi_square_bound(freedom: int, p: float) -> float:
    """The value that chi-square exceeds with probability p (Wilson and Hilferty 1931)."""
    z = NormalDist().inv_cdf(1 - p)
    return freedom * (1 - 2 / (9 * freedom) + z * (2 / (9 * freedom)) ** 0.5) ** 3


@pytest.mark.parametrize("length", [2, 7, 100])
def test_every_item_is_equally_likely(length: int):
    sampler = RandomSampler(length, 1000, seed=5)
    draws = np.concatenate([next(sampler) for _ in range(100)])
    counts = np.bincount(draws, minlength=length)
    assert len(counts) == length
    expected = len(draws) / length
    assert ((counts - expected) ** 2 / expected).sum() < chi_square_bound(length - 1, 1e-4)


def test_random_draws_are_with_replacement_and_int64():
    batch = next(RandomSampler(3, 50))
    assert batch.dtype == np.int64
    assert batch.shape == (50,)
    assert set(batch.tolist()) == {0, 1, 2}


@given(st.integers(1, 30), st.integers(1, 12), st.booleans(), st.integers(0, 99))
def test_an_epoch_has_every_item_once(length: int, batch: int, drop_last: bool, seed: int):
    if drop_last and length < batch:
        with pytest.raises(UserError, match=f"{length} items are too few for a batch of {batch}"):
            EpochSampler(length, batch, seed, drop_last)
        return
    sampler = EpochSampler(length, batch, seed, drop_last)
    kept = length - length % batch if drop_last else length
    assert sampler.batches_per_epoch == -(-kept // batch)
    for epoch in range(3):
        batches = [next(sampler) for _ in range(sampler.batches_per_epoch)]
        assert sampler.epoch == epoch
        assert all(len(b) == batch for b in batches[:-1])
        assert len(batches[-1]) == (kept % batch or batch)
        drawn = np.concatenate(batches)
        assert drawn.dtype == np.int64
        assert len(set(drawn.tolist())) == len(drawn) == kept
        assert set(drawn.tolist()) <= set(range(length))


def test_epochs_have_different_orders_in_which_every_place_is_equally_likely():
    sampler = EpochSampler(6, 6, seed=3)
    orders = np.array([next(sampler) for _ in range(3000)])
    assert len({tuple(order) for order in orders.tolist()}) > 600, "6! = 720 orders"
    for place in range(6):
        counts = np.bincount(orders[:, place], minlength=6)
        assert ((counts - 500) ** 2 / 500).sum() < chi_square_bound(5, 1e-4)


def test_changing_a_batch_does_not_change_the_order():
    sampler, other = EpochSampler(6, 3), EpochSampler(6, 3)
    next(sampler)[...] = 0
    next(other)
    sampler.load_state_dict(sampler.state_dict())
    assert next(sampler).tolist() == next(other).tolist()


@kinds
def test_the_seed_decides(make: Make):
    draws = [next(make(1000, 20, seed=seed)).tolist() for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


@kinds
@pytest.mark.parametrize("before", [0, 1, 7, 30, 33, 34, 67])
def test_a_saved_state_continues_with_the_same_draws(make: Make, before: int):
    # RandomSampler: an odd batch size leaves half a 64-bit word over, which is part of the state.
    first = make(100, 3, seed=4)
    for _ in range(before):
        next(first)
    state = json.loads(json.dumps(first.state_dict()))
    second = make(100, 3, seed=99)
    second.load_state_dict(state)
    for _ in range(80):
        assert next(first).tolist() == next(second).tolist()


@kinds
def test_the_state_of_another_sampler_is_refused(make: Make):
    state = make(1000, 3).state_dict()
    for other, words in (
        (make(999, 3), "length 1000, this one 999"),
        (make(1000, 4), "batch_size 3, this one 4"),
    ):
        before = other.state_dict()
        with pytest.raises(UserError, match=f"the saved sampler has {words}"):
            other.load_state_dict(state)
        assert other.state_dict() == before
    with pytest.raises(UserError, match="drop_last False, this one True"):
        EpochSampler(9, 3, drop_last=True).load_state_dict(EpochSampler(9, 3).state_dict())


@pytest.mark.parametrize("damage", [{}, {"random": {}}, {"random": None}, {"random": {"state": 1}}])
def test_a_damaged_state_of_the_random_sampler_is_refused(damage: dict):
    state = RandomSampler(1000, 3).state_dict() | damage if damage else {}
    with pytest.raises(UserError, match="damaged"):
        RandomSampler(1000, 3).load_state_dict(state)


@pytest.mark.parametrize(
    "damage", [None, {"position": 1001}, {"position": -1}, {"epoch": "2"}, {"seed": None}]
)
def test_a_damaged_state_of_the_epoch_sampler_is_refused(damage: dict | None):
    sampler = EpochSampler(1000, 3)
    before = sampler.state_dict()
    with pytest.raises(UserError, match="damaged"):
        sampler.load_state_dict({} if damage is None else before | damage)
    assert sampler.state_dict() == before


@kinds
def test_sizes_are_positive(make: Make):
    for length, batch in ((0, 1), (-1, 1), (1, 0), (1, -5)):
        with pytest.raises(UserError):
            make(length, batch)


@kinds
@pytest.mark.parametrize("wrong", ["2", 2.0, None, True, [2]])
def test_sizes_and_seeds_are_whole_numbers(make: Make, wrong: Any):
    for arguments, name in (
        ((wrong, 1), "the number of items"),
        ((9, wrong), "the batch size"),
        ((9, 2, wrong), "the seed"),
    ):
        with pytest.raises(
            UserError, match=f"{name} must be a whole number, not {re.escape(repr(wrong))}"
        ):
            make(*arguments)
    with pytest.raises(UserError, match="the seed must be at least 0, not -1"):
        make(9, 2, -1)
