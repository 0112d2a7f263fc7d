"""The settings of generation: names, defaults, checks."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from byhand import GPT, GPTConfig
from byhand.errors import UserError
from byhand.generation import GenerationConfig

MODEL = GPT(GPTConfig(11, 8, 8, 2, 1))


def test_names_are_those_of_hugging_face():
    ours = set(GenerationConfig.__dataclass_fields__)  # type: ignore[attr-defined]
    transformers = pytest.importorskip("transformers")
    gone = {"num_beam_groups", "diversity_penalty", "penalty_alpha"}  # until version 5
    theirs = set(vars(transformers.GenerationConfig())) | gone
    assert ours - theirs == {"seed", "overflow", "regex", "json_schema"}


def test_a_config_survives_json():
    config = GenerationConfig(
        max_new_tokens=3,
        do_sample=True,
        eos_token_id=[1, 2],
        bad_words_ids=[[5], (6, 7)],
        stop_strings="end",
        min_p=0.1,
    )
    again = GenerationConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again.stop_strings == ("end",)
    assert again.bad_words_ids == ((5,), (6, 7))
    assert GenerationConfig.from_dict(GenerationConfig().to_dict()) == GenerationConfig()


def test_end_tokens_and_padding():
    assert GenerationConfig().eos_ids == ()
    assert GenerationConfig(eos_token_id=4).eos_ids == (4,)
    assert GenerationConfig(eos_token_id=[4, 2]).padding == 4
    assert GenerationConfig(eos_token_id=4, pad_token_id=0).padding == 0
    assert GenerationConfig().padding is None


@pytest.mark.parametrize(
    ("names", "kind", "words"),
    [
        ({"tempreature": 1}, TypeError, "'tempreature' is unknown (did you mean temperature?)"),
        ({"num_beam": 2}, TypeError, "(did you mean num_beams?)"),
        ({"top_k": -1}, ValueError, "top_k must be at least 0, got -1"),
        ({"top_k": 2.5}, TypeError, "top_k must be a whole number, got 2.5"),
        ({"top_p": -0.1}, ValueError, "top_p must be at least 0 and at most 1, got -0.1"),
        ({"top_p": 1.1}, ValueError, "top_p must be at least 0 and at most 1, got 1.1"),
        ({"min_p": 2}, ValueError, "min_p must be at least 0 and at most 1, got 2"),
        ({"typical_p": 0}, ValueError, "typical_p must be greater than 0 and at most 1, got 0"),
        ({"temperature": -1}, ValueError, "temperature must be at least 0, got -1"),
        ({"temperature": float("nan")}, ValueError, "temperature must be a finite number"),
        ({"temperature": "1"}, TypeError, "temperature must be a finite number, got '1'"),
        ({"repetition_penalty": 0}, ValueError, "repetition_penalty must be greater than 0"),
        ({"max_new_tokens": -1}, ValueError, "max_new_tokens must be at least 0, got -1"),
        ({"max_new_tokens": True}, TypeError, "max_new_tokens must be a whole number, got True"),
        ({"max_length": 0}, ValueError, "max_length must be at least 1, got 0"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"overflow": "slide"}, ValueError, "overflow must be error, window or truncate"),
        ({"early_stopping": "no", "num_beams": 2}, TypeError, "early_stopping must be True, False"),
        ({"eos_token_id": -1}, ValueError, "eos_token_id must be a token id or a sequence"),
        ({"eos_token_id": []}, ValueError, "eos_token_id must be a token id or a sequence"),
        ({"bad_words_ids": [5]}, TypeError, "bad_words_ids must be a sequence of sequences"),
        ({"bad_words_ids": [[]]}, ValueError, "none of them empty"),
        ({"stop_strings": [""]}, ValueError, "none of them empty"),
        ({"stop_strings": 3}, TypeError, "stop_strings must be a string or a sequence"),
        ({"num_return_sequences": 2}, ValueError, "num_return_sequences = 2 needs as many num_b"),
        ({"num_return_sequences": 3, "num_beams": 2}, ValueError, "num_return_sequences = 3"),
        (
            {"num_return_sequences": 3, "num_beams": 2, "do_sample": True},
            ValueError,
            "num_return_sequences = 3",
        ),
        ({"num_beams": 3, "num_beam_groups": 2, "diversity_penalty": 1.0}, ValueError, "multiple"),
        ({"num_beams": 4, "num_beam_groups": 2}, ValueError, "go together"),
        ({"diversity_penalty": 1.0}, ValueError, "go together"),
        ({"early_stopping": True}, ValueError, "early_stopping acts only with num_beams above 1"),
        ({"length_penalty": 2.0}, ValueError, "length_penalty acts only with num_beams above 1"),
        ({"temperature": 0.7}, ValueError, "temperature=0.7 acts only with do_sample"),
        ({"top_k": 5}, ValueError, "top_k=5 acts only with do_sample"),
        ({"top_p": 0.9}, ValueError, "top_p=0.9 acts only with do_sample"),
        ({"min_p": 0.9}, ValueError, "min_p=0.9 acts only with do_sample"),
        ({"penalty_alpha": 0.6}, ValueError, "top_k must be at least 2 with penalty_alpha"),
        ({"penalty_alpha": 0.6, "top_k": 4, "num_beams": 2}, ValueError, "penalty_alpha goes"),
        ({"min_new_tokens": 5, "max_new_tokens": 4}, ValueError, "at most max_new_tokens = 4"),
    ],
    ids=str,
)
def test_mistakes_are_one_sentence(names: dict[str, Any], kind: type[Exception], words: str):
    with pytest.raises(kind, match=re.escape(words)) as found:
        GenerationConfig(**names)
    assert "\n" not in str(found.value)
    with pytest.raises(kind, match=re.escape(words)):
        MODEL.generate([1], **{"max_new_tokens": 3, **names})


@pytest.mark.parametrize(
    ("names", "prompt", "words"),
    [
        ({"max_length": 5}, 5, "max_length = 5 counts the prompt, which has 5 tokens"),
        ({"max_length": 8, "min_new_tokens": 6}, 3, "min_new_tokens = 6 does not fit max_length"),
    ],
)
def test_lengths_that_leave_no_room(names: dict[str, Any], prompt: int, words: str):
    with pytest.raises(UserError, match=words):
        GenerationConfig(**names).new_tokens(prompt)


def test_how_many_tokens_follow_a_prompt():
    assert GenerationConfig().new_tokens(7) == 20
    assert GenerationConfig(min_new_tokens=30).new_tokens(7) == 30
    assert GenerationConfig(max_length=30).new_tokens(7) == 23
    assert GenerationConfig(max_length=30, max_new_tokens=4).new_tokens(7) == 4


@pytest.mark.parametrize("name", ["eos_token_id", "pad_token_id", "bad_words_ids"])
def test_ids_outside_the_vocabulary(name: str):
    value = [[3, 11]] if name == "bad_words_ids" else 11
    with pytest.raises(UserError, match=rf"{name} 11 is outside the vocabulary 0\.\.10"):
        MODEL.generate([1], max_new_tokens=2, **{name: value})


def test_a_config_is_given_whole_or_by_names():
    config = GenerationConfig(max_new_tokens=3)
    assert MODEL.generate([1], config).shape == (1, 4)
    assert MODEL.generate([1], config, max_new_tokens=5).shape == (1, 6)
    with pytest.raises(TypeError, match=r"config must be a GenerationConfig, got 5: names such as"):
        MODEL.generate([1], 5)
