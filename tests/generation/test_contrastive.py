"""Contrastive search beside the formula written out, without cache and batch."""

from __future__ import annotations

import numpy as np
import pytest

from byhand import GPT
from byhand.generation import generate
from tests.generation.test_beam import small_gpt


def written_out(
    model: GPT, prompt: list[int], new: int, k: int, alpha: float, eos: int
) -> list[int]:
    """Su et al. 2022, equation 5: every candidate's whole text is read again."""
    text = list(prompt)
    with model.in_inference():
        for _ in range(new):
            hidden = model.decoder(np.array([text]))[0]
            logits = model.head(hidden[None, -1:])[0, 0]
            p = np.exp(logits - logits.max())
            p /= p.sum()
            values = {}
            for token in sorted(range(len(p)), key=lambda id: -p[id])[:k]:
                h = model.decoder(np.array([[*text, token]]))[0, -1]
                cosines = [h @ x / np.linalg.norm(h) / np.linalg.norm(x) for x in hidden]
                values[token] = (1 - alpha) * p[token] - alpha * max(cosines)
            text.append(max(values, key=values.__getitem__))
            if text[-1] == eos:
                break
    return text


@pytest.mark.parametrize("alpha", [0.2, 0.6, 1.0])
@pytest.mark.parametrize("k", [2, 5, 23])
def test_texts_are_those_written_out(k: int, alpha: float):
    model = small_gpt(seed=k)
    prompts = [[1, 2, 3], [7], [5, 6, 7, 8, 9, 10]]
    found = generate(
        model,
        prompts,
        max_new_tokens=12,
        penalty_alpha=alpha,
        top_k=k,
        eos_token_id=4,
        pad_token_id=0,
    )
    greedy = generate(model, prompts, max_new_tokens=12, eos_token_id=4, pad_token_id=0)
    if alpha == 1:
        assert found.tolist() != greedy.tolist(), "otherwise the penalty is not tested"
    for row, prompt in zip(found, prompts, strict=True):
        expected = written_out(model, prompt, 12, k, alpha, 4)
        mine = row[6 - len(prompt) :].tolist()
        assert mine[: len(expected)] == expected
        assert not any(mine[len(expected) :])


def test_an_excluded_token_is_no_candidate():
    """With alpha 1 the probability does not count, but one of 0 does."""
    model = small_gpt()
    only = [lambda ids, scores: np.where(np.arange(23) < 2, scores, -np.inf)]
    found = generate(
        model, [5], max_new_tokens=10, penalty_alpha=1.0, top_k=6, logits_processor=only
    )
    assert found[0, 1:].max() < 2
    assert len(set(found[0, 1:].tolist())) == 2


def test_the_context_window_moves():
    """Past the context the states that are compared are those of what the model sees."""
    model = small_gpt()
    names = {"penalty_alpha": 0.6, "top_k": 4, "overflow": "window", "max_new_tokens": 60}
    found = generate(model, [1, 2, 3], **names)
    assert found.shape == (1, 63)
    np.testing.assert_array_equal(found, generate(model, [1, 2, 3], use_cache=False, **names))
