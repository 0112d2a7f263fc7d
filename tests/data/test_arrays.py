"""Arrays as data sets, and the folds of cross-validation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from byhand.data import ArrayDataset, stratified_folds
from byhand.errors import UserError


def test_a_batch_has_the_rows_asked_for():
    x = np.arange(24, dtype=np.float32).reshape(6, 2, 2)
    y = np.array(list("abcdef"))
    dataset = ArrayDataset(x=x, y=y)
    assert len(dataset) == 6
    batch = dataset.batch(np.array([4, 0, 4]))
    assert batch["x"].tolist() == [x[4].tolist(), x[0].tolist(), x[4].tolist()]
    assert batch["y"].tolist() == ["e", "a", "e"]
    assert batch["x"].dtype == np.float32
    batch["x"][...] = -1
    assert x[4, 0, 0] == 16, "a batch is a copy"


def test_batches_are_contiguous_for_any_arrays():
    dataset = ArrayDataset(x=np.arange(12.0).reshape(3, 4).T, n=[1, 2, 3, 4])
    batch = dataset.batch(np.array([3, 1]))
    assert batch["x"].flags.c_contiguous
    assert batch["x"].tolist() == [[3.0, 7.0, 11.0], [1.0, 5.0, 9.0]]
    assert batch["n"].tolist() == [4, 2]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({}, "at least one array"),
        ({"x": np.zeros((3, 2)), "y": np.zeros(4)}, "x has 3 rows, but y has 4"),
        ({"x": np.zeros(3), "y": 1.0}, "y must have rows"),
    ],
)
def test_missing_or_unequal_arrays_are_refused(arrays: dict, words: str):
    with pytest.raises(UserError, match=words):
        ArrayDataset(**arrays)


def test_an_index_out_of_range_is_an_index_error():
    for index in (3, -1):
        with pytest.raises(IndexError, match=f"index {index} is outside a data set of 3 items"):
            ArrayDataset(x=np.zeros(3)).batch(np.array([0, index]))


@given(st.lists(st.integers(5, 20), min_size=1, max_size=4), st.integers(2, 5), st.integers(0, 99))
def test_folds_divide_every_class_evenly(counts: list[int], k: int, seed: int):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    folds = stratified_folds(labels, k, seed)
    assert len(folds) == k
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(len(labels)))
    sizes = [len(test) for _, test in folds]
    assert max(sizes) - min(sizes) <= 1
    for train, test in folds:
        assert sorted([*train, *test]) == list(range(len(labels)))
        assert (np.diff(train) > 0).all()
        assert (np.diff(test) > 0).all()
    for label in range(len(counts)):
        held = [(labels[test] == label).sum() for _, test in folds]
        assert max(held) - min(held) <= 1


def test_folds_are_shuffled_and_the_seed_decides():
    labels = np.repeat(["no", "yes"], [60, 40])
    first, again, other = (stratified_folds(labels, 5, seed) for seed in (1, 1, 2))
    assert all((a[1] == b[1]).all() for a, b in zip(first, again, strict=True))
    assert any((a[1] != b[1]).any() for a, b in zip(first, other, strict=True))
    # Every place in a class has the same chance to be in the first fold.
    hits = np.zeros(100)
    for seed in range(400):
        hits[stratified_folds(labels, 5, seed)[0][1]] += 1
    assert np.abs(hits / 400 - 0.2).max() < 0.1


@pytest.mark.parametrize(
    ("labels", "k", "words"),
    [
        ([0, 0, 1, 1], 1, "the number of folds must be at least 2, not 1"),
        ([0, 0, 1, 1], 2.0, "the number of folds must be a whole number, not 2.0"),
        ([0, 0, 0, 1], 2, "the class 1 has 1 examples, too few for 2 folds"),
        ([], 2, "no labels"),
        ([[0, 1], [1, 0]], 2, r"shape \(2, 2\)"),
    ],
)
def test_impossible_folds_are_refused(labels: list, k: int, words: str):
    with pytest.raises(UserError, match=words):
        stratified_folds(labels, k)
