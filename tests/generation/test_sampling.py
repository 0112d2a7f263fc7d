"""Draws: their distribution, and random numbers that belong to a row."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from byhand import GPT, GPTConfig
from byhand.generation import GenerationConfig, generate, processors
from byhand.generation.sampling import draw, row_keys, uniforms

DRAWS = 100_000


def chi_square_bound(freedom: int) -> float:
    """What chi-square exceeds with probability 1e-4, by Wilson and Hilferty (1931)."""
    z = NormalDist().inv_cdf(1 - 1e-4)
    return freedom * (1 - 2 / (9 * freedom) + z * math.sqrt(2 / (9 * freedom))) ** 3


def by_brute_force(scores: np.ndarray, names: dict[str, float]) -> np.ndarray:
    """The distribution, one rule after the other on a sorted list."""
    p = np.exp((scores - scores.max()) / names.get("temperature", 1.0))
    p /= p.sum()
    order = sorted(range(len(p)), key=lambda i: (-p[i], i))
    if "top_k" in names:
        p[order[int(names["top_k"]) :]] = 0
    if "top_p" in names:
        p /= p.sum()
        total = 0.0
        for i in order:
            if total >= names["top_p"]:
                p[i] = 0
            total += p[i]
    if "min_p" in names:
        p[p < names["min_p"] * p.max()] = 0
    if "typical_p" in names:
        p /= p.sum()
        entropy = -sum(x * math.log(x) for x in p if x > 0)
        total = 0.0
        for i in sorted(
            range(len(p)), key=lambda i: abs(-math.log(p[i]) - entropy) if p[i] > 0 else math.inf
        ):
            if total >= names["typical_p"]:
                p[i] = 0
            total += p[i]
    return p / p.sum()


@pytest.mark.parametrize(
    "names",
    [
        {},
        {"temperature": 0.7},
        {"temperature": 3.0},
        {"top_k": 5},
        {"top_p": 0.8},
        {"min_p": 0.1},
        {"typical_p": 0.6},
        {"temperature": 2.0, "top_k": 9, "top_p": 0.9},
    ],
    ids=str,
)
def test_draws_of_a_model_have_the_distribution_of_brute_force(names: dict):
    """100,000 texts of one token through `generate`, by chi-square."""
    model = GPT(GPTConfig(20, 4, 8, 2, 1), seed=2).to(dtype="float64")
    model.decoder.norm.weight.value = np.full(8, 20.0)
    with model.in_inference():
        scores = model(np.array([[3]]))[0, -1]
    p = by_brute_force(scores, names)
    kept = int((p > 0).sum())
    assert kept == 20 if set(names) <= {"temperature"} else 3 < kept < 12
    texts = generate(
        model, [3], max_new_tokens=1, do_sample=True, num_return_sequences=DRAWS, seed=5, **names
    )
    counts = np.bincount(texts[:, 1], minlength=20)
    assert (counts[p == 0] == 0).all()
    q = p[p > 0]
    chi_square = ((counts[p > 0] - DRAWS * q) ** 2 / (DRAWS * q)).sum()
    assert chi_square < chi_square_bound(kept - 1)


def test_numbers_of_rows_and_steps_are_uniform_and_independent():
    keys = row_keys(0, [np.array([n]) for n in range(2000)])
    assert len(set(keys.tolist())) == 2000
    u = np.stack([uniforms(keys, step) for step in range(50)])
    assert u.min() >= 0
    assert u.max() < 1
    counts = np.histogram(u, bins=100, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < chi_square_bound(99)
    for first, second in ((u[:-1], u[1:]), (u[:, :-1], u[:, 1:])):
        pairs = np.histogram2d(first.ravel(), second.ravel(), bins=10, range=[[0, 1], [0, 1]])[0]
        mean = first.size / 100
        assert ((pairs - mean) ** 2 / mean).sum() < chi_square_bound(99)
    assert (u * 2.0**53 == np.floor(u * 2.0**53)).all()


def test_a_key_belongs_to_seed_prompt_and_number():
    a, b = np.array([1, 2]), np.array([3])
    keys = row_keys(7, [a, b], 2).tolist()
    assert len(set(keys)) == 4
    assert row_keys(7, [b, a, a]).tolist() == [keys[2], keys[0], keys[1]]
    assert row_keys(7, [a], 1, first=1).tolist() == keys[1:2]
    assert not set(keys) & set(row_keys(8, [a, b], 2).tolist())


@pytest.mark.parametrize("p", [[0.0, 0.5, 0.5, 0.0], [0.0, 0.1, 0.2, 0.0], [0.0, 1 / 3, 1 / 3, 0]])
def test_the_ends_of_the_uniform_draw_never_give_a_token_of_probability_0(p: list[float]):
    with np.errstate(divide="ignore"):
        scores = np.log(np.array([p, p]))
    assert draw(scores, np.array([0.0, np.nextafter(1.0, 0.0)])).tolist() == [1, 2]


def test_temperature_0_is_greedy_and_a_small_one_comes_near_it():
    scores = np.random.default_rng(3).normal(size=(5, 30))
    u = np.full(5, 0.999)
    sharp = processors.temperature(1e-4)([], scores)
    assert draw(sharp, u).tolist() == scores.argmax(axis=1).tolist()
    assert not GenerationConfig(do_sample=True, temperature=0).samples
