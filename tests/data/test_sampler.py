"""The random sampler: uniform, with replacement, and able to go on where it stopped."""

import json
from statistics import NormalDist

import numpy as np
import pytest

from byhand.data import RandomSampler
from byhand.errors import UserError


def chi_square_bound(freedom: int, p: float) -> float:
    """The value that chi-square exceeds with probability p (Wilson and Hilferty 1931)."""
    z = NormalDist().inv_cdf(1 - p)
    return freedom * (1 - 2 / (9 * freedom) + z * (2 / (9 * freedom)) ** 0.5) ** 3


@pytest.mark.parametrize("length", [2, 7, 100])
def test_every_window_is_equally_likely(length: int):
    sampler = RandomSampler(length, 1000, seed=5)
    draws = np.concatenate([next(sampler) for _ in range(100)])
    counts = np.bincount(draws, minlength=length)
    assert len(counts) == length
    expected = len(draws) / length
    assert ((counts - expected) ** 2 / expected).sum() < chi_square_bound(length - 1, 1e-4)


def test_draws_are_with_replacement_and_int64():
    batch = next(RandomSampler(3, 50))
    assert batch.dtype == np.int64
    assert batch.shape == (50,)
    assert set(batch.tolist()) == {0, 1, 2}


def test_the_seed_decides():
    draws = [next(RandomSampler(1000, 20, seed)).tolist() for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize("before", [0, 1, 7])
def test_a_saved_state_goes_on_with_the_same_draws(before: int):
    # An odd batch size leaves half a 64-bit word behind, which must be part of the state.
    first = RandomSampler(1000, 3, seed=4)
    for _ in range(before):
        next(first)
    state = json.loads(json.dumps(first.state()))
    second = RandomSampler(1000, 3, seed=99)
    second.load_state(state)
    for _ in range(20):
        assert next(first).tolist() == next(second).tolist()


def test_the_state_of_another_sampler_is_refused():
    state = RandomSampler(1000, 3).state()
    for other in (RandomSampler(999, 3), RandomSampler(1000, 4)):
        before = next(RandomSampler(other.length, other.batch_size)).tolist()
        with pytest.raises(UserError, match="the saved sampler drew 3 of 1000"):
            other.load_state(state)
        assert next(other).tolist() == before


@pytest.mark.parametrize("damage", [{}, {"random": {}}, {"random": None}, {"random": {"state": 1}}])
def test_a_damaged_state_is_refused(damage: dict):
    state = RandomSampler(1000, 3).state() | damage if damage else {}
    with pytest.raises(UserError, match="damaged"):
        RandomSampler(1000, 3).load_state(state)


def test_sizes_are_positive():
    for length, batch in ((0, 1), (-1, 1), (1, 0), (1, -5)):
        with pytest.raises(UserError):
            RandomSampler(length, batch)
