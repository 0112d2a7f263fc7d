"""Processors of scores: beside transformers', by brute force, and with ties."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from byhand import GPT, GPTConfig
from byhand.errors import UserError
from byhand.generation import GenerationConfig, Session, processors
from byhand.generation.processors import apply, build

R, V, T = 6, 40, 9


def given(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """ids (R, T), with repetitions, and scores (R, V) on both sides of 0."""
    rng = np.random.default_rng(seed)
    return rng.integers(8, size=(R, T)), rng.normal(scale=3, size=(R, V))


def softmax(scores: np.ndarray) -> np.ndarray:
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


PAIRS: list[tuple[Any, Any]] = [
    (processors.repetition_penalty(1.4), lambda lp: lp.RepetitionPenaltyLogitsProcessor(1.4)),
    (processors.repetition_penalty(0.7), lambda lp: lp.RepetitionPenaltyLogitsProcessor(0.7)),
    *(
        (processors.no_repeat_ngram(n), lambda lp, n=n: lp.NoRepeatNGramLogitsProcessor(n))
        for n in (1, 2, 3, T, T + 1, T + 2)
    ),
    (
        processors.bad_words([[3], [1, 4], [2, 5, 6], [0, 7]]),
        lambda lp: lp.NoBadWordsLogitsProcessor([[3], [1, 4], [2, 5, 6], [0, 7]]),
    ),
    (
        processors.min_new_tokens(4, [1, 9], lambda: 3),
        lambda lp: lp.MinNewTokensLengthLogitsProcessor(T - 3, 4, [1, 9]),
    ),
    (
        processors.min_new_tokens(3, [1, 9], lambda: 3),
        lambda lp: lp.MinNewTokensLengthLogitsProcessor(T - 3, 3, [1, 9]),
    ),
    (processors.temperature(0.3), lambda lp: lp.TemperatureLogitsWarper(0.3)),
    *(
        (
            processors.top_k(k, keep),
            lambda lp, k=k, keep=keep: lp.TopKLogitsWarper(k, -np.inf, keep),
        )
        for k, keep in ((1, 1), (7, 1), (V, 1), (V + 5, 1), (1, 3))
    ),
    *(
        (
            processors.top_p(p, keep),
            lambda lp, p=p, keep=keep: lp.TopPLogitsWarper(p, -np.inf, keep),
        )
        for p, keep in ((0.0, 1), (0.3, 1), (0.9, 1), (0.999, 1), (0.1, 4))
    ),
    *(
        (
            processors.min_p(p, keep),
            lambda lp, p=p, keep=keep: lp.MinPLogitsWarper(p, -np.inf, keep),
        )
        for p, keep in ((0.0, 1), (0.1, 1), (1.0, 1), (0.9, 3))
    ),
    *(
        (
            processors.typical_p(p, keep),
            lambda lp, p=p, keep=keep: lp.TypicalLogitsWarper(p, -np.inf, keep),
        )
        for p, keep in ((0.05, 1), (0.4, 1), (0.95, 1), (0.05, 3))
    ),
]


@pytest.mark.parametrize("number", range(len(PAIRS)))
def test_each_is_that_of_transformers(number: int):
    torch = pytest.importorskip("torch")
    lp = pytest.importorskip("transformers.generation.logits_process")
    ours, make = PAIRS[number]
    changed = 0
    for seed in range(20):
        ids, scores = given(seed)
        found = ours(list(ids), scores)
        there = make(lp)(torch.from_numpy(ids), torch.from_numpy(scores.copy())).numpy()
        np.testing.assert_allclose(found, there, rtol=1e-12)
        changed += (found != scores).any()
        np.testing.assert_array_equal(scores, given(seed)[1])
    keeps_all = {
        "top_k": (V, V + 5),
        "min_p": (0.0,),
        "min_new_tokens": (3,),
        "no_repeat_ngram": (T, T + 1, T + 2),
    }
    variables = [cell.cell_contents for cell in ours.__closure__]
    if not set(keeps_all.get(ours.__name__, ())) & {v for v in variables if np.isscalar(v)}:
        assert changed > 10, "a processor that changes nothing tests nothing"


def kept(scores: np.ndarray) -> list[set[int]]:
    return [set(np.flatnonzero(np.isfinite(row)).tolist()) for row in scores]


@pytest.mark.parametrize("levels", [3, 1000])
def test_the_sets_are_those_of_a_sorted_list(levels: int):
    """By brute force; with few levels many scores are equal: the smaller id counts as larger."""
    rng = np.random.default_rng(levels)
    scores = rng.integers(levels, size=(200, 12)) / levels * 4
    scores[::7, 3:6] = -np.inf
    for row, one in enumerate(scores):
        p = softmax(one)
        order = sorted(range(12), key=lambda i: (-one[i], i))
        for k in (1, 2, 5, 11, 12, 20):
            expected = {i for i in order[:k] if one[i] > -np.inf}
            assert kept(processors.top_k(k)([], scores[row : row + 1])) == [expected]
        for mass in (0.0, 0.2, 0.5, 0.77, 0.99):
            expected, total = set(), 0.0
            for i in order:
                expected.add(i)
                total += p[i]
                if total >= mass:
                    break
            found = kept(processors.top_p(mass)([], scores[row : row + 1]))
            assert found == [expected], (row, mass)
        for part in (0.0, 0.3, 1.0):
            expected = {i for i in order if p[i] >= part * p.max() and p[i] > 0}
            assert kept(processors.min_p(part)([], scores[row : row + 1])) == [expected]


def test_a_row_does_not_depend_on_the_others():
    ids, scores = given()
    for ours, _ in PAIRS:
        together = ours(list(ids), scores)
        for row in range(R):
            alone = ours([ids[row]], scores[row : row + 1])
            np.testing.assert_array_equal(together[row], alone[0])


def test_rows_of_different_lengths():
    rows = [np.array([1]), np.array([1, 2, 1]), np.array([2, 1, 2, 1])]
    scores = np.ones((3, 4))
    found = processors.no_repeat_ngram(2)(rows, scores)
    assert kept(found) == [{0, 1, 2, 3}, {0, 1, 3}, {0, 1, 3}]
    found = processors.bad_words([[1, 2, 1, 3]])(rows, scores)
    assert kept(found) == [{0, 1, 2, 3}, {0, 1, 2}, {0, 1, 2}]


def session() -> Session:
    return Session(GPT(GPTConfig(V, 16, 8, 2, 1)), [1], GenerationConfig(max_new_tokens=3))


def test_the_order_is_that_of_transformers():
    """The user's own come after those of the text and before those of sampling."""

    def own(ids: Any, scores: Any) -> Any:
        return scores

    config = GenerationConfig(
        do_sample=True,
        temperature=0.5,
        top_k=3,
        top_p=0.9,
        min_p=0.1,
        typical_p=0.9,
        repetition_penalty=1.2,
        no_repeat_ngram_size=2,
        bad_words_ids=[[1], [2]],
        min_new_tokens=2,
        eos_token_id=2,
    )
    names = [p.__name__ for p in build(config, session(), [own])]
    of_text = ["repetition_penalty", "no_repeat_ngram", "bad_words", "min_new_tokens", "own"]
    assert names == [*of_text, "temperature", "top_k", "top_p", "min_p", "typical_p"]
    assert build(GenerationConfig(), session()) == []
    greedy = config.replace(temperature=0)
    assert [p.__name__ for p in build(greedy, session())] == names[:4]


def test_with_beams_sampling_leaves_a_token_more_than_there_are_ends():
    config = GenerationConfig(num_beams=2, do_sample=True, top_k=1, eos_token_id=(3, 4))
    (top,) = build(config, session())
    assert [len(row) for row in kept(top([], given()[1]))] == [3] * R


def test_what_a_processor_may_not_return():
    ids, scores = given()
    for wrong, words in (
        (lambda ids, s: s[:, 1:], r"must return scores \(6, 40\), not shape \(6, 39\)"),
        (lambda ids, s: s * np.nan, "not NaN"),
        (lambda ids, s: s - np.inf, "every token is excluded"),
    ):
        with pytest.raises(UserError, match=words):
            apply([wrong], list(ids), scores)
    with pytest.raises(UserError, match="logits_processor is a function"):
        build(GenerationConfig(), session(), [3])  # type: ignore[list-item]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [1e-320, 1e-300, 1e300])
def test_extreme_temperatures_stay_finite_at_the_largest(value: float):
    scores = np.array([[0.0, 5.0, -3.0, -np.inf]])
    p = softmax(processors.temperature(value)([], scores))
    if value < 1:
        np.testing.assert_array_equal(p, [[0, 1, 0, 0]])
    else:
        np.testing.assert_allclose(p, [[1 / 3, 1 / 3, 1 / 3, 0]])
