"""Rows E11 to E14 and E16 to E19: how the next token is chosen."""

from __future__ import annotations

import inspect
import sys

import numpy as np
import pytest

import byhand.config
from byhand import GPT, GPTConfig
from byhand.generation import GenerationConfig, Session, processors
from tests.generation.test_sampling import DRAWS, chi_square_bound
from tests.guide.planted import planted

# The package's name `generate` is the function.
GENERATE = sys.modules["byhand.generation.generate"]
V = 12


def model(scale: float = 0.7) -> GPT:
    """A model whose texts vary, with weights of this size."""
    made = GPT(GPTConfig(V, 32, 12, 3, 2)).to(dtype="float64")
    rng = np.random.default_rng(4)
    for p in made.parameters():
        if len(p.shape) > 1:
            p.value[...] = rng.normal(scale=scale, size=p.shape)
    return made


def next_probabilities(made: GPT, ids: list[int]) -> np.ndarray:
    with made.in_inference():
        logits = made(np.array([ids]))[0, -1]
    e = np.exp(logits - logits.max())
    return e / e.sum()


def drawn(made: GPT, **names: float) -> np.ndarray:
    """100,000 draws of the token after the prompt [3]: how often each came."""
    texts = made.generate(
        [3], max_new_tokens=1, do_sample=True, num_return_sequences=DRAWS, seed=1, **names
    )
    return np.bincount(texts[:, 1], minlength=V)


@planted(
    "E11", "all texts of a prompt have the same random numbers", GENERATE, "row_keys",
    lambda right: lambda seed, prompts, count=1, first=0: np.repeat(right(seed, prompts), count),
)  # fmt: skip
def test_e11_three_sequences_are_three_texts_that_begin_with_the_prompt():
    made = model()
    texts = made.generate([1, 2], max_length=14, do_sample=True, num_return_sequences=3)
    assert texts.shape == (3, 14)
    assert (texts[:, :2] == [1, 2]).all()
    assert len({tuple(text) for text in texts}) == 3
    assert made.generate([1, 2], max_length=14, do_sample=True).tolist() == texts[:1].tolist()


@planted(
    "E12", "max_length counts the new tokens only", GenerationConfig, "new_tokens",
    lambda right: lambda config, prompt: config.max_length or right(config, prompt),
)  # fmt: skip
def test_e12_max_length_counts_the_prompt_and_an_end_token_may_come_earlier():
    """The guide says that max_length is the number of tokens returned; it counts the prompt too."""
    made = model()
    assert made.generate([1, 2, 3], max_length=9).shape == (1, 9)
    text = made.generate([1, 2, 3], max_new_tokens=9)[0]
    assert text.shape == (12,)
    end = int(text[6])
    first = 3 + text[3:].tolist().index(end)
    stopped = made.generate([1, 2, 3], max_new_tokens=9, eos_token_id=end)[0]
    assert stopped.tolist() == text[: first + 1].tolist()
    longer = made.generate([1, 2, 3], max_new_tokens=9, eos_token_id=end, min_new_tokens=8)[0]
    assert len(longer) >= 11
    assert end not in longer[3:10]


@planted(
    "E13", "of equal scores the last is taken", GENERATE.scoring, "apply",
    lambda right: lambda *given: right(*given) + 1e-9 * np.arange(V),
)  # fmt: skip
def test_e13_greedy_decoding_takes_the_most_likely_token_and_repeats_itself():
    made = model()
    text = made.generate([1], max_new_tokens=30)[0].tolist()
    for n in range(1, 31):
        assert text[n] == next_probabilities(made, text[:n]).argmax()
    assert made.generate([1], max_new_tokens=30, seed=5)[0].tolist() == text, "no chance in it"
    assert any(text[-p:] == text[-2 * p : -p] for p in range(1, 11)), "it ends in a loop"
    equal = model()
    equal.head.weight.value = np.zeros((V, 12))
    assert equal.generate([1], max_new_tokens=4)[0].tolist() == [1, 0, 0, 0, 0]


@planted(
    "E14", "every token is drawn equally often", GENERATE, "draw",
    lambda right: lambda scores, u: (u * V).astype(np.int64),
)  # fmt: skip
def test_e14_multinomial_sampling_draws_from_the_softmax():
    made = model(0.3)
    p, counts = next_probabilities(made, [3]), drawn(made)
    assert ((counts - DRAWS * p) ** 2 / (DRAWS * p)).sum() < chi_square_bound(V - 1)
    names = {"max_new_tokens": 20, "do_sample": True}
    texts = [made.generate([1], seed=seed, **names)[0].tolist() for seed in (0, 1, 0)]
    assert texts[0] == texts[2] != texts[1]


@planted(
    "E16", "one token too many is kept", processors, "_largest",
    lambda right: lambda scores, counts: right(scores, counts + 1),
)  # fmt: skip
def test_e16_top_k_draws_the_three_most_likely_tokens_only():
    made = model(0.3)
    p = next_probabilities(made, [3])
    counts = drawn(made, top_k=3)
    best = np.argsort(-p)[:3]
    assert set(np.flatnonzero(counts)) == set(best)
    q = p[best] / p[best].sum()
    assert ((counts[best] - DRAWS * q) ** 2 / (DRAWS * q)).sum() < chi_square_bound(2)
    names = {"max_new_tokens": 12, "do_sample": True}
    greedy = made.generate([1], max_new_tokens=12).tolist()
    assert made.generate([1], top_k=1, **names).tolist() == greedy
    free = made.generate([1], **names).tolist()
    assert made.generate([1], top_k=V + 50, **names).tolist() == free


@planted(
    "E17", "the token that reaches p is left out", processors, "_largest",
    lambda right: lambda scores, counts: right(scores, np.maximum(counts - 1, 1)),
)  # fmt: skip
def test_e17_top_p_draws_from_the_smallest_set_of_probability_p():
    """By hand: 0.4 + 0.3 < 0.75 <= 0.4 + 0.3 + 0.2."""
    scores = np.log([[0.1, 0.4, 0.2, 0.3]])
    for p, kept in ((0.0, [1]), (0.4 - 1e-9, [1]), (0.5, [1, 3]), (0.75, [1, 2, 3])):
        assert np.flatnonzero(processors.top_p(p)([], scores)[0] > -np.inf).tolist() == kept
    made = model(0.3)
    p = next_probabilities(made, [3])
    order = np.argsort(-p)
    smallest = order[: int((np.cumsum(p[order]) < 0.6).sum()) + 1]
    assert set(np.flatnonzero(drawn(made, top_p=0.6))) == set(smallest)
    names = {"max_new_tokens": 12, "do_sample": True}
    assert made.generate([1], **names).tolist() == made.generate([1], top_p=1.0, **names).tolist()


@planted(
    "E18", "the probabilities are divided by the temperature", processors, "temperature",
    lambda right: lambda value: lambda ids, scores: scores - np.log(value),
)  # fmt: skip
def test_e18_the_temperature_divides_the_logits_before_the_softmax():
    """The guide has it act on "the distribution returned by softmax", which would change nothing
    once that is normalised.
    """
    made = model(0.3)
    p = next_probabilities(made, [3])
    entropies = []
    for temperature in (0.25, 0.5, 1.0, 2.0, 4.0):
        q = p ** (1 / temperature)
        q /= q.sum()
        counts = drawn(made, temperature=temperature)
        expected = DRAWS * q
        often = expected > 5
        chi_square = ((counts - expected) ** 2 / expected)[often].sum()
        assert chi_square < chi_square_bound(max(int(often.sum()) - 1, 1))
        entropies.append(-(counts / DRAWS * np.log(np.maximum(counts, 1) / DRAWS)).sum())
    assert entropies == sorted(entropies)
    names = {"max_new_tokens": 12, "do_sample": True}
    greedy = made.generate([1], max_new_tokens=12).tolist()
    for temperature in (0, 1e-9):
        assert made.generate([1], temperature=temperature, **names).tolist() == greedy


@planted(
    "E19", "unknown names are not looked at", byhand.config, "_require_names",
    lambda right: lambda *given: None,
)  # fmt: skip
def test_e19_names_are_those_of_hugging_face():
    names = set(inspect.signature(GenerationConfig.__init__).parameters)
    assert {"do_sample", "num_beams", "top_k", "top_p", "temperature"} <= names
    made = model()
    with pytest.raises(TypeError, match=r"'top_n' is unknown \(did you mean top_p\?\)"):
        made.generate([1], top_n=3)
    with pytest.raises(TypeError, match=r"'max_tokens' is unknown \(did you mean max_new_tokens"):
        Session(made, [1], GenerationConfig(max_tokens=3))
