"""Beam search beside transformers' `generate`, with a GPT-2 of the same random weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.generation.test_generate_transformers import SIZES, prompts, theirs, twins
from tests.hugging_face import in_float64

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

EOS = "one of six"  # tokens end a text
OPTIONS: list[dict[str, Any]] = [
    {"num_beams": 3},
    {"num_beams": 4, "eos_token_id": 3, "num_return_sequences": 4},
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
    """60 prompts of 1 to 12 tokens, in batches with padding, token for token. The padding is not
    token 0, in whose place transformers fills texts with the first end token.
    """
    model, twin = twins(sizes)
    rows = prompts(sizes[0])
    options = {"max_new_tokens": 16, "pad_token_id": 1, **options}
    if options.get("eos_token_id") == EOS:
        options["eos_token_id"] = list(range(3, sizes[0], 6))
    found = model.generate(rows, **options)
    with in_float64():
        expected = theirs(twin, rows, do_sample=False, **options)
    np.testing.assert_array_equal(found, expected)
    if isinstance(options.get("eos_token_id"), list) and options.get("length_penalty", 1) < 2:
        ended = np.isin(expected[:, 12:-1], options["eos_token_id"]).any(axis=1)
        assert ended.sum() > 3, "texts that never end would test little"


OF_VERSION_4: list[dict[str, Any]] = [
    {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0},
    {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5, "eos_token_id": 3,
     "num_return_sequences": 4},
    {"num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 2.0, "eos_token_id": 7,
     "num_return_sequences": 3, "early_stopping": True},
    {"num_beams": 4, "num_beam_groups": 4, "diversity_penalty": 1.0, "eos_token_id": 11,
     "length_penalty": 2.0, "early_stopping": "never"},
    {"penalty_alpha": 0.6, "top_k": 4},
    {"penalty_alpha": 0.3, "top_k": 6, "eos_token_id": [3, 7, 11, 12]},
]  # fmt: skip


@pytest.mark.skipif(
    int(transformers.__version__.split(".")[0]) > 4,
    reason="transformers 5 has neither groups of beams nor contrastive search",
)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("options", OF_VERSION_4, ids=str)
def test_groups_and_contrastive_search_are_those_of_transformers_4(
    sizes: tuple[int, ...], options: dict[str, Any]
):
    """60 prompts, each alone. The padding is excluded from the texts, because a group that is done
    goes on with it there, and takes it from the groups after it.
    """
    model, twin = twins(sizes)
    rows = prompts(sizes[0])
    options = {"max_new_tokens": 12, "pad_token_id": 1, "bad_words_ids": [[1]], **options}
    count = options.get("num_return_sequences", 1)
    found = model.generate(rows, **options)
    with in_float64():
        for number, row in enumerate(rows):
            expected = theirs(twin, [row], do_sample=False, **options)
            mine = found[number * count : (number + 1) * count, 12 - len(row) :]
            width = expected.shape[1]
            np.testing.assert_array_equal(mine[:, :width], expected)
            assert (mine[:, width:] == 1).all()
