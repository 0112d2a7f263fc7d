"""Rows of different lengths, masks, pairs, and labelled texts as rows."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from byhand import data
from byhand.errors import UserError
from byhand.text import CharacterTokenizer, WordPieceTokenizer

WORDS = "the cat sat on a mat and dogs ran to unhappily barking trees in town"
TOKENIZER = WordPieceTokenizer.train([WORDS] * 3, 60)
CLS, SEP, PAD, MASK = (getattr(TOKENIZER, f"{r}_token_id") for r in ("cls", "sep", "pad", "mask"))


def test_rows_are_padded_to_the_longest_of_the_batch():
    made = data.SequenceDataset(
        [[5, 6, 7], [8], [9, 10]],
        pad=3,
        segments=[[0, 0, 1], [1], [0, 1]],
        labels=[1, 0, 2],
    )
    batch = made.batch([2, 1])
    assert {name: a.tolist() for name, a in batch.items()} == {
        "ids": [[9, 10], [8, 3]],
        "segments": [[0, 1], [1, 0]],
        "lengths": [2, 1],
        "labels": [2, 0],
    }
    assert made.batch([0])["ids"].shape == (1, 3)
    assert made.row(2).tolist() == [9, 10]
    wide = data.SequenceDataset([[5], [6, 7]], width=4, token_labels=[[1], [2, 3]])
    assert wide.batch([0])["labels"].tolist() == [[1, -100, -100, -100]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(rows=[]), "the data has no rows"),
        (dict(rows=[[1], []]), "row 1 of the data has no tokens"),
        (dict(rows=[[1.5]]), "the ids of the data must be sequences of whole numbers, but row 0"),
        (dict(rows=[[1, 2]], width=1), "a row of the data has 2 tokens, more than 1"),
        (dict(rows=[[1]], labels=[1, 2]), "the data has 1 rows, but 2 labels"),
        (dict(rows=[[1]], segments=[[1, 2]]), "the segments of the data have other lengths than"),
        (dict(rows=[[1]], token_labels=[[1, 2]]), "the labels of the data have other lengths"),
    ],
)
def test_wrong_rows_are_one_sentence(options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        data.SequenceDataset(**options)


# --- Batches of similar lengths -------------------------------------------------------------------

LENGTHS = np.random.default_rng(0).integers(1, 60, 203)


def passes(sampler: data.LengthSampler, batches: int) -> list[list[int]]:
    return [next(sampler).tolist() for _ in range(batches)]


def test_a_pass_has_every_item_once_in_batches_of_similar_lengths():
    sampler = data.LengthSampler(LENGTHS, 8, seed=3)
    batches = passes(sampler, sampler.batches_per_epoch)
    assert sorted(i for batch in batches for i in batch) == list(range(203))
    assert [len(batch) for batch in batches] == [8] * 25 + [3]
    padding = sum(LENGTHS[b].max() * len(b) - LENGTHS[b].sum() for b in map(np.array, batches))
    plain = data.EpochSampler(203, 8, seed=3)
    without = [next(plain) for _ in range(26)]
    assert padding < 0.15 * sum(LENGTHS[b].max() * len(b) - LENGTHS[b].sum() for b in without)
    means = [LENGTHS[b].mean() for b in batches]
    assert means != sorted(means)
    assert passes(sampler, 26) != batches


def test_its_state_continues_it():
    one, other = (data.LengthSampler(LENGTHS, 8, seed) for seed in (3, 4))
    passes(one, 30)
    other.load_state_dict(one.state_dict())
    assert passes(one, 40) == passes(other, 40)
    with pytest.raises(UserError, match="the saved sampler has pool 50, this one 2"):
        data.LengthSampler(LENGTHS, 8, pool=2).load_state_dict(one.state_dict())
    with pytest.raises(UserError, match="has length 203, this one 5"):
        data.LengthSampler(LENGTHS[:5], 8).load_state_dict(one.state_dict())


# --- Masks ----------------------------------------------------------------------------------------


def rows(n: int = 400) -> data.SequenceDataset:
    rng = np.random.default_rng(1)
    made = [[CLS, *rng.integers(5, len(TOKENIZER), rng.integers(1, 30)), SEP] for _ in range(n)]
    return data.SequenceDataset(made, PAD)


def masked(plain: Any = None, **options: Any) -> data.MaskedDataset:
    special = [CLS, SEP, PAD, 1]
    return data.MaskedDataset(plain or rows(), MASK, len(TOKENIZER), special, **options)


@pytest.mark.parametrize("seed", range(3))
def test_fifteen_percent_are_chosen_and_most_of_them_masked(seed):
    plain = rows()
    made, before = masked(plain, seed=seed).batch(np.arange(400)), plain.batch(np.arange(400))
    ids, labels, former = made["ids"], made["labels"], before["ids"]
    chosen = labels != -100
    free = ~np.isin(former, [CLS, SEP, PAD])
    assert not (chosen & ~free).any()
    assert (labels[chosen] == former[chosen]).all()
    assert (ids[~chosen] == former[~chosen]).all()
    assert chosen.any(1).all(), "each row has a masked token"
    assert chosen.sum() / free.sum() == pytest.approx(0.165, abs=0.02)  # short rows have one more
    share = chosen.sum()
    assert (ids[chosen] == MASK).sum() / share == pytest.approx(0.8, abs=0.04)
    same = (ids[chosen] == former[chosen]).sum() / share
    assert same == pytest.approx(0.1, abs=0.03)
    drawn = ids[chosen][(ids[chosen] != MASK) & (ids[chosen] != former[chosen])]
    assert len(set(drawn.tolist())) > 20
    assert not np.isin(drawn, [CLS, SEP, PAD, MASK, 1]).any()


def test_masks_depend_on_the_number_of_the_item_only():
    made = masked()
    both = made.batch([7, 5 + 400])
    alone = made.batch([405])
    n = int(alone["lengths"][0])
    assert both["ids"][1, :n].tolist() == alone["ids"][0, :n].tolist()
    assert both["labels"][1, :n].tolist() == alone["labels"][0, :n].tolist()
    assert len(made) == 400 << 20
    variants = {made.batch([5 + 400 * v])["labels"].tobytes() for v in range(20)}
    assert len(variants) > 10
    assert made.batch([5])["labels"].tobytes() != masked(seed=1).batch([5])["labels"].tobytes()


def test_a_row_of_special_tokens_has_no_mask():
    made = masked(data.SequenceDataset([[CLS, SEP]], PAD)).batch([0])
    assert (made["labels"] == -100).all()


@pytest.mark.parametrize("most", [1, 3])
def test_places_for_a_fixed_number_of_masks(most):
    made = masked(most=most, probability=0.4).batch(np.arange(40))
    plain = rows().batch(np.arange(40))
    assert made["positions"].shape == made["labels"].shape == (40, most)
    counted = made["labels"] != -100
    assert counted[:, 0].all()
    assert (plain["ids"].reshape(-1)[made["positions"][counted]] == made["labels"][counted]).all()
    changed = (made["ids"] != plain["ids"]).sum(1)
    assert (changed <= counted.sum(1)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(probability=0), "must be greater than 0 and at most 1, not 0"),
        (dict(most=0), "the most tokens to mask must be at least 1, not 0"),
        (dict(seed=-1), "the seed must be at least 0, not -1"),
        (dict(variants=0), "the number of variants must be at least 1"),
    ],
)
def test_wrong_masks_are_one_sentence(options, message):
    with pytest.raises(UserError, match=message):
        masked(**options)
    with pytest.raises(UserError, match="the id 9 is outside the vocabulary of 5"):
        data.MaskedDataset(rows(), 9, 5)
    with pytest.raises(UserError, match="all tokens of the vocabulary are special"):
        data.MaskedDataset(rows(), 0, 2, [1])


# --- Pairs ----------------------------------------------------------------------------------------


def documents() -> list[list[list[int]]]:
    """Sentence s of document d is d * 100 + s, several times."""
    return [[[d * 100 + s] * (1 + s % 4) for s in range(1, 12)] for d in range(1, 6)]


def test_half_of_the_pairs_follow_each_other():
    made = data.SentencePairs(documents(), 0, 1, 24, pad=2)
    batch = made.batch(np.arange(2000))
    labels = batch["next_sentence_label"]
    assert labels.mean() == pytest.approx(0.5, abs=0.05)
    assert batch["ids"].shape[1] <= 24
    for ids, segments, n, label in zip(
        batch["ids"], batch["segments"], batch["lengths"], labels, strict=True
    ):
        row = ids[:n]
        middle, end = np.flatnonzero(row == 1)
        assert (row[0], end) == (0, n - 1)
        a, b = row[1:middle], row[middle + 1 : end]
        assert len(a)
        assert len(b)
        assert segments[:n].tolist() == [0] * (middle + 1) + [1] * (n - middle - 1)
        if label == 0:
            assert b[0] == a[-1] + 1, "the sentence after"
        else:
            assert b[0] // 100 != a[0] // 100, "another document"
    assert len(set(batch["lengths"].tolist())) > 5
    same = made.batch([3, 3 + 50 * 40])
    assert same["ids"][0].tolist() != same["ids"][1].tolist()
    assert made.batch([3])["ids"].tolist() == made.batch([3])["ids"].tolist()


def test_documents_of_a_text():
    text = "\n\na b.\nc.\n\n \nd\ne\n"
    assert data.split_documents(text) == [["a b.", "c."], ["d", "e"]]
    with pytest.raises(UserError, match="need two documents, divided by an empty line"):
        data.SentencePairs([[[1], [2]]], 0, 1, 9)
    with pytest.raises(UserError, match="need a document of two lines"):
        data.SentencePairs([[[1]], [[2]]], 0, 1, 9)


# --- Labelled texts -------------------------------------------------------------------------------


def test_texts_with_labels():
    examples = [
        {"text": "the cat sat on a mat", "label": "yes"},
        {"text": "dogs", "label": "no", "text_pair": "the trees ran to town and sat"},
    ]
    made = data.classified(examples, TOKENIZER, 9)
    batch = made.batch([0, 1])
    assert batch["labels"].tolist() == [1, 0]  # no, yes
    a, b = (batch["ids"][i, : batch["lengths"][i]] for i in (0, 1))
    assert a.tolist() == [*TOKENIZER.encode("the cat sat on a mat").tolist()[:8], SEP]
    assert np.count_nonzero(b == SEP) == 2
    assert len(b) == 9
    assert batch["segments"][1].tolist() == np.repeat([0, 1], [3, 6]).tolist()
    assert data.labels_in(data.checked_examples(examples)) == ["no", "yes"]
    several = [{"text": "cat", "label": ["b"]}, {"text": "mat", "label": ["a", "b"]}]
    assert data.classified(several, TOKENIZER, 9).batch([0, 1])["labels"].tolist() == [
        [0, 1],
        [1, 1],
    ]
    numbers = data.checked_examples([{"text": "a", "label": n} for n in (10, 9, -1)])
    assert data.labels_in(numbers) == ["-1", "9", "10"]


def test_the_first_token_of_a_word_has_its_tag():
    word = next(w for w in "unhappily barking".split() if len(TOKENIZER.tokenize(w)) > 1)
    pieces = len(TOKENIZER.tokenize(word))
    examples = [{"tokens": ["cat", word, "mat"], "tags": ["O", "B-X", "O"]}]
    made = data.tagged(examples, TOKENIZER, 30).batch([0])
    size = len(TOKENIZER.tokenize("cat"))
    wanted = [-100, 1] + [-100] * (size - 1) + [0] + [-100] * (pieces - 1) + [1]
    assert made["labels"][0, : len(wanted)].tolist() == wanted  # B-X, O
    assert (made["labels"][0, len(wanted) :] == -100).all()
    cut = data.tagged(examples, TOKENIZER, 4).batch([0])
    assert cut["ids"].shape == (1, 4)
    assert cut["ids"][0, -1] == SEP


def test_answers_are_found_by_their_characters():
    context = " ".join([WORDS] * 3)
    start = context.find("dogs ran", len(WORDS))
    examples = [
        {"question": "the cat", "context": context, "answer": "dogs ran", "answer_start": start},
        {"question": "a mat", "context": "the trees", "answer": ""},
    ]
    made = data.QuestionDataset(examples, TOKENIZER, 24, stride=8)
    of_first = np.flatnonzero(made.question_of == 0)
    assert len(of_first) > 3
    batch = made.batch(np.arange(len(made)))
    assert batch["ids"].shape[1] <= 24
    found = 0
    for window, (first, last) in enumerate(batch["labels"].tolist()):
        if window in of_first:
            begin, end = made.context_of(window)
            assert made.text_between(window, begin, end - 1) in context
        if (first, last) != (0, 0):
            found += 1
            assert made.text_between(window, first, last) == "dogs ran"
    assert found >= 1
    assert made.unanswered
    assert batch["labels"][-1].tolist() == [0, 0]
    groups = list(made.batches_of_questions(2))
    assert [set(made.question_of[g["windows"]].tolist()) for g in groups] == [{0}, {1}]
    starts = [made._offsets[w][1][0, 0] for w in of_first]
    ends = [made._offsets[w][1][-1, 1] for w in of_first]
    assert all(s < e for s, e in zip(starts[1:], ends, strict=False)), "windows overlap"
    assert (starts[0], ends[-1]) == (0, len(context))


def test_mistakes_of_labelled_texts():
    with pytest.raises(
        UserError, match=r"example 0 of .*: unknown label 'yess' \(did you mean yes"
    ):
        data.classified([{"text": "a", "label": "yess"}], TOKENIZER, 9, ["no", "yes"])
    with pytest.raises(UserError, match=r"the tokenizer has no \[CLS\] token: train one"):
        data.classified([{"text": "a", "label": "b"}], CharacterTokenizer.from_text("abc"), 9)
    examples = [{"question": "the cat", "context": "dogs", "answer": "dogs"}]
    with pytest.raises(UserError, match="the stride 30 leaves no room in a window: with the quest"):
        data.QuestionDataset(examples, TOKENIZER, 20, stride=30)
    with pytest.raises(UserError, match="has examples of kind span, not classification"):
        data.classified(data.checked_examples(examples), TOKENIZER, 9)
