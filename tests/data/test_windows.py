"""Windows: each one right, every token predicted once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from byhand.data import (
    ArrayDataset,
    Dataset,
    TextData,
    WindowDataset,
    consecutive_windows,
    split,
)
from byhand.errors import UserError


def test_a_sentence_becomes_pairs_of_a_prefix_and_the_next_word():
    words = "The core innovation of Transformers is the attention.".split()
    window = WindowDataset(np.arange(len(words)), context=7)[0]
    pairs = [(words[: t + 1], words[window["targets"][t]]) for t in range(7)]
    assert pairs[0] == (["The"], "core")
    assert pairs[3] == (["The", "core", "innovation", "of"], "Transformers")
    assert pairs[6] == (words[:7], "attention.")
    assert window["ids"].tolist() == list(range(7))


@given(st.integers(1, 9), st.integers(0, 20), st.integers(0, 2**32))
def test_every_window_is_a_slice_and_the_slice_after_it(context: int, more: int, seed: int):
    ids = np.random.default_rng(seed).integers(5, size=context + 1 + more).astype(np.uint16)
    dataset = WindowDataset(ids, context)
    assert len(dataset) == more + 1
    batch = dataset.batch(np.arange(len(dataset)))
    assert batch.keys() == {"ids", "targets"}
    for i in range(len(dataset)):
        assert batch["ids"][i].tolist() == ids[i : i + context].tolist()
        assert batch["targets"][i].tolist() == ids[i + 1 : i + 1 + context].tolist()
        for name, rows in batch.items():
            assert dataset[i][name].tolist() == rows[i].tolist()
    assert dataset[-1]["ids"].tolist() == batch["ids"][-1].tolist()
    for array in batch.values():
        assert array.dtype == np.int64
        assert array.flags.c_contiguous
        assert array.shape == (more + 1, context)


def test_an_index_out_of_range_is_an_index_error():
    dataset = WindowDataset(np.arange(10), 4)
    for index in (6, -7):
        with pytest.raises(IndexError, match=f"index {index} is outside .* 6 items"):
            dataset[index]
    for index in (6, -1):
        with pytest.raises(IndexError, match=f"index {index} is outside .* 6 items"):
            dataset.batch(np.array([0, index]))
    assert dataset.batch(np.array([], int))["ids"].shape == (0, 4)


@pytest.mark.parametrize("dataset", [WindowDataset(np.arange(10), 4), ArrayDataset(ids=np.eye(6))])
def test_indices_are_whole_numbers_in_an_array_or_a_list(dataset: Dataset):
    for same in ([1, 5], (1, 5), np.array([1, 5], np.uint8)):
        assert np.array_equal(dataset.batch(same)["ids"], dataset.batch(np.array([1, 5]))["ids"])
    assert len(dataset.batch([])["ids"]) == 0
    for wrong in (3, [1.5], ["a"], None, [[1, 2]], np.ones(6, bool)):
        with pytest.raises(UserError, match=r"must be whole numbers of shape \(B,\), not "):
            dataset.batch(wrong)


@pytest.mark.parametrize(
    ("ids", "context", "words"),
    [
        (np.arange(4), 4, "has 4 tokens, and one window of context 4 needs 5"),
        (np.arange(0), 1, "has 0 tokens"),
        (np.arange(9), 0, "the context must be at least 1, not 0"),
        (np.arange(9), "2", "the context must be a whole number, not '2'"),
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
    for ratio in (0.0, 1.0, -0.1, 2.0, float("nan"), "0.1", None, True):
        with pytest.raises(UserError, match="greater than 0 and less than 1"):
            split(np.arange(10), ratio)


@given(st.integers(2, 60), st.integers(1, 12), st.integers(1, 5))
def test_consecutive_windows_predict_every_token_once(length: int, context: int, batch: int):
    predicted = []
    for windows in consecutive_windows(np.arange(length), context, batch):
        ids, targets = windows["ids"], windows["targets"]
        assert ids.shape == targets.shape
        assert ids.shape[0] <= batch
        assert ids.shape[1] <= context
        assert (targets == ids + 1).all()
        predicted += targets.reshape(-1).tolist()
    assert predicted == list(range(1, length))


@given(st.integers(2, 200), st.integers(1, 7), st.integers(1, 5), st.integers(1, 40))
def test_a_limit_spreads_whole_windows_evenly(length: int, context: int, batch: int, limit: int):
    def all_of(limit: int | None = None) -> list[np.ndarray]:
        return [b["ids"] for b in consecutive_windows(np.arange(length), context, batch, limit)]

    count = (length - 1) // context
    taken = all_of(limit)
    if limit >= count:
        assert [ids.tolist() for ids in taken] == [ids.tolist() for ids in all_of()]
        return
    starts = np.concatenate([ids[:, 0] for ids in taken])
    assert len(starts) == limit
    assert all(ids.shape[1] == context for ids in taken)
    assert (starts % context == 0).all()
    even = np.arange(limit) * count / limit
    assert (np.abs(starts // context - even) < 1).all()
    assert (np.diff(starts) > 0).all()


def test_consecutive_windows_need_a_token_to_predict():
    for arguments in ((np.arange(1), 3, 2), (np.arange(9), 0, 2), (np.arange(9), 3, 0)):
        with pytest.raises(UserError):
            list(consecutive_windows(*arguments))


def test_text_data_trains_on_the_beginning_and_validates_on_the_end():
    data = TextData(np.arange(1000), context=6, batch_size=3, val_ratio=0.2)
    assert len(data.train) == 800 - 6
    assert data.train.batch(np.array([793]))["targets"][0, -1] == 799
    assert data.training_ids[-1] == 799
    predicted = [b["targets"] for b in data.validation()]
    assert np.concatenate([t.reshape(-1) for t in predicted]).tolist() == list(range(801, 1000))
    few = TextData(np.arange(1000), 6, 3, 0.2, eval_batches=2)
    batches = [[b["ids"].tolist() for b in few.validation()] for _ in range(2)]
    assert batches[0] == batches[1]
    assert [len(rows) for rows in batches[0]] == [3, 3]
    for ratio, words in (
        (0.001, "the validation part of the text has 1 "),
        (0.999, "the training"),
    ):
        with pytest.raises(UserError, match=words):
            TextData(np.arange(1000), 6, 3, ratio)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int32])
def test_the_dtype_of_the_ids_does_not_matter(dtype: type):
    ids = np.random.default_rng(0).integers(200, size=500)
    wide, small = (TextData(i, 7, 4, 0.3, 5) for i in (ids, ids.astype(dtype)))
    assert small.training_ids.dtype == dtype, "no copy is made"
    assert np.shares_memory(small.train.ids, small.training_ids)  # type: ignore[attr-defined]
    numbers = np.arange(0, 300, 17)
    pairs = [(wide.train.batch(numbers), small.train.batch(numbers))]
    pairs += list(zip(wide.validation(), small.validation(), strict=True))
    for one, other in pairs:
        for name in ("ids", "targets"):
            assert other[name].dtype == np.int64
            assert one[name].tobytes() == other[name].tobytes()
