"""Beam search against exhaustive search, and what holds for every search."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from byhand import GPT, GPTConfig
from byhand.errors import UserError
from byhand.generation import generate
from byhand.generation.beam import largest
from tests.generation.exhaustive import TableModel, random_model


def small_gpt(seed: int = 0, vocabulary: int = 23, dtype: str = "float64") -> GPT:
    model = GPT(GPTConfig(vocabulary, 40, 16, 2, 2), seed=seed).to(dtype=dtype)
    rng = np.random.default_rng(seed)
    for p in model.parameters():
        p.value[...] = rng.normal(scale=0.5, size=p.shape)
    return model


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0, -1.0])
@pytest.mark.parametrize("eos", [(), (3,), (1, 2)])
def test_many_beams_are_exhaustive_search(eos: tuple[int, ...], length_penalty: float):
    """4 tokens, depth 3: 16 beams hold every text of two tokens, so nothing is lost."""
    names = {"num_beams": 64, "early_stopping": "never", "length_penalty": length_penalty}
    for seed in range(10):
        model = random_model(seed)
        texts = model.all_texts([0], 3, eos)
        scores = {
            (*t, *[0] * (4 - len(t))): model.log_probability(t) / (len(t) - 1) ** length_penalty
            for t in texts
        }
        found = generate(
            model, [0], max_new_tokens=3, num_return_sequences=5, pad_token_id=0,
            eos_token_id=eos or None, use_cache=False, **names,
        )  # fmt: skip
        # By their scores: texts of the same pairs in another order are equally probable.
        assert len(set(map(tuple, found.tolist()))) == 5
        mine = [scores[(*text, *[0] * (4 - len(text)))] for text in found.tolist()]
        np.testing.assert_allclose(mine, sorted(scores.values(), reverse=True)[:5], rtol=1e-12)


def test_two_beams_find_what_greedy_misses():
    """The likely first token leads to an even choice, the unlikely one to a certain token."""
    p = np.array([[0.0, 0.55, 0.45, 0.0], [0.34, 0, 0.33, 0.33], [0, 0, 0, 1], [1, 0, 0, 0]])
    model = TableModel(np.log(p + 1e-9))
    names = {"max_new_tokens": 2, "use_cache": False}
    assert generate(model, [0], **names).tolist() == [[0, 1, 0]]
    assert generate(model, [0], num_beams=2, **names).tolist() == [[0, 2, 3]]


def test_one_beam_is_greedy(monkeypatch: pytest.MonkeyPatch):
    """Also by the code of beam search itself, which generate does not call for one beam."""
    from byhand.generation.beam import beam_search
    from byhand.generation.config import GenerationConfig
    from byhand.generation.generate import prepare

    model = small_gpt()
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8]]
    for names in ({}, {"eos_token_id": (2, 5, 9)}, {"no_repeat_ngram_size": 2}):
        config = GenerationConfig(max_new_tokens=12, pad_token_id=0, early_stopping=False, **names)
        greedy = generate(model, prompts, config)
        session, processors, stops = prepare(model, prompts, config)
        for row, text in zip(greedy, beam_search(session, config, processors, stops), strict=True):
            assert row[row > 0].tolist() == [t for t in text.tolist() if t > 0]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    "names",
    [
        {"num_beams": 3},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.5, "eos_token_id": 3},
        {"num_beams": 3, "do_sample": True, "top_k": 8, "seed": 5},
        {"num_beams": 2, "eos_token_id": (3, 4), "num_return_sequences": 2},
        {"penalty_alpha": 0.6, "top_k": 4, "eos_token_id": 3},
    ],
    ids=str,
)
def test_a_prompt_has_the_same_texts_alone_in_a_batch_and_without_cache(names: dict, dtype: str):
    model = small_gpt(dtype=dtype)
    prompts = [[1, 2, 3], [7], [5, 6, 7, 8, 9, 10], [2, 2]]
    names = {"max_new_tokens": 10, "pad_token_id": 0, **names}
    together = generate(model, prompts, **names)
    count = names.get("num_return_sequences", 1)
    np.testing.assert_array_equal(together, generate(model, prompts, use_cache=False, **names))
    for number, prompt in enumerate(prompts):
        alone = generate(model, prompt, **names)
        mine = together[number * count : (number + 1) * count, 6 - len(prompt) :]
        np.testing.assert_array_equal(mine[:, : alone.shape[1]], alone)


def test_drawn_beams_are_without_replacement_and_by_their_probability():
    """Of one step: pairs of candidates have the probabilities of successive draws."""
    p = np.array([0.5, 0.3, 0.15, 0.05])
    model = TableModel(np.tile(np.log(p), (4, 1)))
    draws = 1000
    counts: Counter[tuple[int, ...]] = Counter()
    names = {"num_beams": 2, "num_return_sequences": 2, "do_sample": True, "use_cache": False}
    found = generate(model, [[0]] * draws, max_new_tokens=1, pad_token_id=0, **names)
    for a, b in found[:, -1].reshape(draws, 2):
        assert p[a] > p[b], "two different ones, the better first"
        counts[int(a), int(b)] += 1
    # The first two of four candidates, and all four are drawn: the best two.
    assert counts == {(0, 1): draws}
    # With 16 tokens 4 of 16 are drawn, and the best two of them are compared with brute force.
    p = np.random.default_rng(0).dirichlet(np.ones(8))
    model = TableModel(np.tile(np.log(p), (8, 1)))
    found = generate(model, [[0]] * draws, max_new_tokens=1, pad_token_id=0, **names)
    order = np.argsort(-p)
    expected: Counter[tuple[int, ...]] = Counter()
    rng = np.random.default_rng(1)
    keys = np.log(p) + rng.gumbel(size=(200_000, 8))  # the four largest are drawn so
    drawn = np.zeros((200_000, 8), bool)
    np.put_along_axis(drawn, np.argsort(-keys, axis=1)[:, :4], True, axis=1)
    best = order[np.argsort(~drawn[:, order], axis=1, kind="stable")[:, :2]]
    expected.update(map(tuple, best.tolist()))
    seen = Counter(map(tuple, found[:, -1].reshape(draws, 2).tolist()))
    likely = {pair: n / 200 for pair, n in expected.items() if n / 200 >= 5}
    chi2 = sum((seen[pair] - n) ** 2 / n for pair, n in likely.items())
    scipy_stats = pytest.importorskip("scipy.stats")
    assert scipy_stats.chi2.sf(chi2, len(likely)) > 1e-4


def test_one_seed_gives_one_text_and_another_seed_others():
    model = small_gpt()
    names = {"num_beams": 3, "do_sample": True, "max_new_tokens": 12}
    texts = {generate(model, [1, 2], seed=seed, **names).tobytes() for seed in (0, 0, 1, 2, 3)}
    assert len(texts) > 2
    np.testing.assert_array_equal(
        generate(model, [1, 2], seed=4, **names), generate(model, [1, 2], seed=4, **names)
    )


def groups_by_hand(model: TableModel, new: int, beams: int, groups: int, penalty: float):
    """Diverse beam search without end tokens, written out: the best text of each step's beams."""
    size, vocabulary = beams // groups, len(model.table)
    state = [[([0], 0.0)] for _ in range(groups)]
    for _ in range(new):
        counts = np.zeros(vocabulary)
        for group in range(groups):
            scored = []
            for text, score in state[group]:
                logits = model.table[text[-1]]
                log_p = logits - np.log(np.exp(logits).sum())
                for token in range(vocabulary):
                    scored.append(([*text, token], score + log_p[token] - penalty * counts[token]))
            scored.sort(key=lambda one: -one[1])
            state[group] = scored[:size]
            for text, _ in state[group]:
                counts[text[-1]] += 1
    every = [one for group in state for one in group]
    return [text for text, _ in sorted(every, key=lambda one: -one[1] / new)]


@pytest.mark.parametrize("penalty", [0.1, 1.0, 5.0])
def test_groups_are_those_written_out_by_hand(penalty: float):
    for seed in range(10):
        model = random_model(seed, size=6)
        found = generate(
            model, [0], max_new_tokens=4, num_beams=6, num_beam_groups=3, use_cache=False,
            diversity_penalty=penalty, num_return_sequences=6,
        )  # fmt: skip
        np.testing.assert_array_equal(found, groups_by_hand(model, 4, 6, 3, penalty))


def test_the_second_group_does_without_the_token_of_the_first():
    model = TableModel(np.log([[0.6, 0.3, 0.1]] * 3))
    names = {"num_beams": 2, "num_beam_groups": 2, "diversity_penalty": 9.0, "use_cache": False}
    found = generate(model, [1], max_new_tokens=1, num_return_sequences=2, **names)
    assert found[:, 1].tolist() == [0, 1]


def test_a_stop_string_finishes_a_beam():
    from byhand.text import CharacterTokenizer

    model = random_model(0, size=5)
    tokenizer = CharacterTokenizer("abcde")
    found = generate(
        model, [0], max_new_tokens=6, num_beams=3, num_return_sequences=3, stop_strings="b",
        tokenizer=tokenizer, pad_token_id=4, use_cache=False,
    )  # fmt: skip
    texts = [tokenizer.decode(row[1:]).rstrip("e") for row in found]
    assert any("b" in text for text in texts)
    assert all("b" not in text[:-1] for text in texts)


def test_fewer_texts_than_are_asked_for_are_an_error():
    model = random_model(0)
    only = [lambda ids, scores: np.where(np.arange(4) == 2, scores, -np.inf)]
    names = {"max_new_tokens": 3, "num_beams": 3, "use_cache": False, "logits_processor": only}
    assert generate(model, [0], **names).tolist() == [[0, 2, 2, 2]]
    with pytest.raises(UserError, match="num_return_sequences = 2, but only 1 different texts"):
        generate(model, [0], num_return_sequences=2, **names)


def test_no_new_tokens_are_the_prompts():
    model = random_model(0)
    names = {"max_new_tokens": 0, "num_beams": 2, "num_return_sequences": 2, "use_cache": False}
    assert generate(model, [1, 2], **names).tolist() == [[1, 2], [1, 2]]


def test_the_largest_scores_and_their_ties():
    rng = np.random.default_rng(0)
    for _ in range(100):
        scores = rng.integers(0, 6, (3, 17)).astype(float)
        scores[rng.random(scores.shape) < 0.2] = -np.inf
        count = int(rng.integers(1, 18))
        values, places = largest(scores, count)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
        np.testing.assert_array_equal(places, order)
        np.testing.assert_array_equal(values, np.take_along_axis(scores, order, axis=1))
