"""Row E15: beam search."""

from __future__ import annotations

import numpy as np

from byhand.demos.beam import BeamSearch
from byhand.generation import beam, generate
from tests.generation.exhaustive import TableModel, random_model
from tests.guide.planted import planted


@planted(
    "E15", "the worst of the finished texts are kept", beam._Finished, "add",
    lambda right: lambda self, score, text: right(self, -score, text),
)  # fmt: skip
def test_e15_beam_search_is_exhaustive_where_every_text_has_a_beam():
    """4 tokens, depth 3, with length penalties; and one beam is greedy."""
    names = {"max_new_tokens": 3, "use_cache": False, "eos_token_id": 3}
    for seed in range(5):
        model = random_model(seed)
        texts = model.all_texts([0], 3, (3,))
        for length_penalty in (0.0, 1.0, 3.0):
            found = generate(
                model,
                [0],
                num_beams=64,
                length_penalty=length_penalty,
                early_stopping="never",
                **names,
            )[0].tolist()
            if 3 in found:
                found = found[: found.index(3) + 1]
            scores = {
                tuple(t): model.log_probability(t) / (len(t) - 1) ** length_penalty for t in texts
            }
            assert scores[tuple(found)] >= max(scores.values()) - 1e-12
        greedy = generate(model, [0], **names)[0]
        token, text = 0, [0]
        while len(text) < 4 and token != 3:
            token = int(model.table[token].argmax())
            text.append(token)
        assert greedy.tolist() == text


def test_e15_early_stopping_ends_with_as_many_finished_texts_as_beams():
    """Each token is followed by itself or the end; a length penalty of 2 favours long texts."""
    model = TableModel(np.log([[1e-9, 0.7, 1e-9, 0.3], [1e-9, 0.6, 1e-9, 0.4]] * 2))
    names = {"max_new_tokens": 6, "num_beams": 2, "length_penalty": 2.0, "eos_token_id": 3}
    names |= {"use_cache": False, "pad_token_id": 3}
    assert generate(model, [0], early_stopping=True, **names).tolist() == [[0, 1, 3]]
    longest = generate(model, [0], early_stopping="never", **names)[0].tolist()
    assert longest == [0, 1, 1, 1, 1, 1, 1]


def test_e15_the_example_finds_the_text_that_greedy_search_misses():
    made = BeamSearch()
    assert tuple(made.found[1]) == (0, 1, 3, 0)
    assert made.probability(made.found[2]) > made.probability(made.found[1])
    assert tuple(made.found[4]) == made.all[0][1]
    assert np.isclose(sum(p for p, _ in made.all), 1)
