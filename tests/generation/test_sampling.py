"""Probabilities against brute force, draws by a chi-square test."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from byhand.errors import UserError
from byhand.generation import probabilities, sample

scores = st.lists(st.integers(-20, 20).map(lambda n: n / 4), min_size=1, max_size=12)


def brute_force(logits: list[float], temperature: float, top_k: int | None) -> list[float]:
    """Softmax over the kept tokens, one at a time; ties go to the smaller id."""
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    kept = set(order[: len(logits) if top_k is None else top_k])
    weights = [math.exp(x / temperature) if i in kept else 0.0 for i, x in enumerate(logits)]
    return [w / math.fsum(weights) for w in weights]


@given(scores, st.sampled_from([0.3, 0.8, 1.0, 2.5]), st.none() | st.integers(1, 14))
def test_probabilities_equal_brute_force(logits: list[float], temperature: float, top_k: int):
    p = probabilities(np.array(logits, np.float32), temperature, top_k)
    expected = brute_force(logits, temperature, top_k)
    assert p.dtype == np.float64
    assert [x > 0 for x in p] == [x > 0 for x in expected]
    np.testing.assert_allclose(p, expected, rtol=1e-12)


@given(scores)
def test_temperature_zero_is_the_first_most_likely_token(logits: list[float]):
    p = probabilities(np.array(logits), temperature=0)
    assert p.tolist() == [float(i == int(np.argmax(logits))) for i in range(len(logits))]
    assert sample(p, np.random.default_rng(0)) == int(np.argmax(logits))


@pytest.mark.parametrize("temperature", [1e-300, 1e-3, 1.0, 1e300])
def test_extreme_scores_stay_a_distribution(temperature: float):
    p = probabilities(np.array([1e4, -1e4, 1e4 - 1e-3, -np.inf]), temperature)
    assert np.isfinite(p).all()
    assert p.sum() == pytest.approx(1.0)
    assert p.argmax() == 0
    assert p[3] == 0


@pytest.mark.parametrize("top_k", [None, 5])
def test_draws_follow_the_probabilities(top_k: int | None):
    rng = np.random.default_rng(12)
    p = probabilities(rng.normal(size=20), temperature=0.7, top_k=top_k)
    draws = 100_000
    counts = np.bincount([sample(p, rng) for _ in range(draws)], minlength=20)
    assert (counts[p == 0] == 0).all()
    kept = p > 0
    chi_square = ((counts[kept] - draws * p[kept]) ** 2 / (draws * p[kept])).sum()
    freedom = int(kept.sum()) - 1
    assert freedom == (19 if top_k is None else 4)
    # The bound for p = 1e-4, by Wilson and Hilferty (1931).
    z = NormalDist().inv_cdf(1 - 1e-4)
    assert chi_square < freedom * (1 - 2 / (9 * freedom) + z * math.sqrt(2 / (9 * freedom))) ** 3


class FixedDraw:
    def __init__(self, value: float) -> None:
        self.value = value

    def random(self) -> float:
        return self.value


@pytest.mark.parametrize("p", [[0.0, 0.5, 0.5, 0.0], [0.0, 0.1, 0.2, 0.0], [0.0, 1 / 3, 1 / 3, 0]])
def test_the_ends_of_the_uniform_draw_never_give_a_token_of_probability_0(p: list[float]):
    for uniform, token in ((0.0, 1), (np.nextafter(1.0, 0.0), 2)):
        assert sample(np.array(p), FixedDraw(uniform)) == token  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("temperature", "top_k", "words"),
    [
        (-0.1, None, "temperature must be a finite number of at least 0, not -0.1"),
        (math.nan, None, "temperature"),
        (math.inf, None, "temperature"),
        (1.0, 0, "top-k must keep at least 1 token, not 0"),
        (1.0, -3, "top-k"),
    ],
)
def test_settings_out_of_range_are_refused(temperature: float, top_k: int | None, words: str):
    with pytest.raises(UserError, match=words):
        probabilities(np.zeros(3), temperature, top_k)


def test_logits_that_are_nan_are_refused():
    with pytest.raises(UserError, match="NaN"):
        probabilities(np.array([0.0, np.nan]))
