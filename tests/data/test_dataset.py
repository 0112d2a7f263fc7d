"""Windows: every one right, every token predicted once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from byhand.data import WindowDataset, split, windows_side_by_side
from byhand.errors import UserError


def test_a_sentence_becomes_pairs_of_a_prefix_and_the_next_word():
    words = "The core innovation of Transformers is the attention.".split()
    x, y = WindowDataset(np.arange(len(words)), context=7)[0]
    pairs = [(words[: t + 1], words[y[t]]) for t in range(7)]
    assert pairs[0] == (["The"], "core")
    assert pairs[3] == (["The", "core", "innovation", "of"], "Transformers")
    assert pairs[6] == (words[:7], "attention.")
    assert x.tolist() == list(range(7))


@given(st.integers(1, 9), st.integers(0, 20), st.integers(0, 2**32))
def test_every_window_is_a_slice_and_the_slice_after_it(context: int, more: int, seed: int):
    ids = np.random.default_rng(seed).integers(5, size=context + 1 + more).astype(np.uint16)
    dataset = WindowDataset(ids, context)
    assert len(dataset) == more + 1
    x, y = dataset.batch(np.arange(len(dataset)))
    for i in range(len(dataset)):
        assert x[i].tolist() == ids[i : i + context].tolist()
        assert y[i].tolist() == ids[i + 1 : i + 1 + context].tolist()
        assert dataset[i][0].tolist() == x[i].tolist()
        assert dataset[i][1].tolist() == y[i].tolist()
    assert dataset[-1][0].tolist() == x[-1].tolist()
    for array in (x, y):
        assert array.dtype == np.int64
        assert array.flags.c_contiguous
        assert array.shape == (more + 1, context)


def test_a_window_out_of_range_is_an_index_error():
    dataset = WindowDataset(np.arange(10), 4)
    for index in (6, -7):
        with pytest.raises(IndexError, match="6 windows"):
            dataset[index]
    with pytest.raises(IndexError):
        dataset.batch(np.array([0, 6]))
    with pytest.raises(IndexError):
        dataset.batch(np.array([-1]))


@pytest.mark.parametrize(
    ("ids", "context", "words"),
    [
        (np.arange(4), 4, "has 4 tokens, and one window of context 4 needs 5"),
        (np.arange(0), 1, "has 0 tokens"),
        (np.arange(9), 0, "at least 1 token, not 0"),
        (np.zeros(9), 2, "not float64"),
        (np.zeros((3, 3), int), 2, r"shape \(3, 3\)"),
    ],
)
def test_a_dataset_needs_one_long_enough_sequence(ids: np.ndarray, context: int, words: str):
    with pytest.raises(UserError, match=words):
        WindowDataset(ids, context)


def test_the_split_is_by_position():
    train, validation = split(np.arange(1000), 0.1)
    assert train.tolist() == list(range(900))
    assert validation.tolist() == list(range(900, 1000))
    for ratio in (0.0, 1.0, -0.1, 2.0, float("nan")):
        with pytest.raises(UserError, match="between 0 and 1"):
            split(np.arange(10), ratio)


@given(st.integers(2, 60), st.integers(1, 12), st.integers(1, 5))
def test_side_by_side_every_token_is_predicted_once(length: int, context: int, batch: int):
    ids = np.arange(length)
    predicted = []
    for x, y in windows_side_by_side(ids, context, batch):
        assert x.shape == y.shape
        assert x.shape[0] <= batch
        assert x.shape[1] <= context
        assert (y == x + 1).all()
        predicted += y.reshape(-1).tolist()
    assert predicted == list(range(1, length))


@given(st.integers(2, 200), st.integers(1, 7), st.integers(1, 5), st.integers(1, 40))
def test_a_limit_spreads_whole_windows_evenly(length: int, context: int, batch: int, limit: int):
    count = (length - 1) // context
    taken = list(windows_side_by_side(np.arange(length), context, batch, limit))
    if limit >= count:
        whole = windows_side_by_side(np.arange(length), context, batch)
        assert [x.tolist() for x, _ in taken] == [x.tolist() for x, _ in whole]
        return
    starts = np.concatenate([x[:, 0] for x, _ in taken])
    assert len(starts) == limit
    assert all(x.shape[1] == context for x, _ in taken)
    assert (starts % context == 0).all()
    even = np.arange(limit) * count / limit
    assert (np.abs(starts // context - even) < 1).all()
    assert (np.diff(starts) > 0).all()


def test_side_by_side_refuses_what_makes_no_windows():
    for arguments in ((np.arange(1), 3, 2), (np.arange(9), 0, 2), (np.arange(9), 3, 0)):
        with pytest.raises(UserError):
            list(windows_side_by_side(*arguments))
