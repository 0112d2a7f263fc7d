"""Beam search beside transformers' `generate`, with a GPT-2 of the same random weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.generation.test_generate_transformers import SIZES, prompts, theirs, twins
from tests.hugging_face import in_float64

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

EOS = [3, 7, 11, 12, 13, 14, 15, 16, 17, 18]
OPTIONS: list[dict[str, Any]] = [
    {"num_beams": 3},
    {"num_beams": 4, "eos_token_id": EOS[0], "num_return_sequences": 4},
    {"num_beams": 4, "eos_token_id": EOS, "num_return_sequences": 2},
    {"num_beams": 5, "eos_token_id": EOS, "early_stopping": True, "num_return_sequences": 5},
    {"num_beams": 3, "eos_token_id": EOS, "early_stopping": "never", "length_penalty": 2.0},
    {"num_beams": 3, "eos_token_id": EOS, "early_stopping": "never", "length_penalty": -1.0},
    {"num_beams": 2, "eos_token_id": EOS, "length_penalty": 0.0, "min_new_tokens": 4},
    {"num_beams": 4, "eos_token_id": EOS, "no_repeat_ngram_size": 2, "repetition_penalty": 1.3},
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_beams_are_those_of_transformers(sizes: tuple[int, ...], options: dict[str, Any]):
    """60 prompts of 1 to 12 tokens, token for token. transformers searches each prompt alone,
    because it stops a batch when none of its prompts can improve.
    """
    model, twin = twins(sizes)
    rows = prompts(sizes[0])
    options = {"max_new_tokens": 16, "pad_token_id": 0, **options}
    found = model.generate(rows, **options)
    count = options.get("num_return_sequences", 1)
    ended = 0
    with in_float64():
        for number, row in enumerate(rows):
            expected = theirs(twin, [row], do_sample=False, **options)
            mine = found[number * count : (number + 1) * count, 12 - len(row) :]
            width = expected.shape[1]
            np.testing.assert_array_equal(mine[:, :width], expected)
            assert (mine[:, width:] == 0).all()
            ended += int(np.isin(expected[:, len(row) : -1], EOS).any())
    if "eos_token_id" in options:
        assert ended > 3, "texts that never end would test little"
