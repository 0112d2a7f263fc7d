"""Training settings: what is refused, and what JSON keeps."""

import json
import math
from typing import Any

import pytest

from byhand.errors import UserError
from byhand.runs import TrainingSettings, sensible_warmup


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("steps", 0, "steps must be at least 1, not 0"),
        ("steps", -1, "at least 1"),
        ("steps", 2.0, "steps must be a whole number, not 2.0"),
        ("steps", True, "whole number"),
        ("steps", "20", "whole number"),
        ("batch_size", 0, "at least 1"),
        ("accumulate", 0, "at least 1"),
        ("eval_every", 0, "at least 1"),
        ("eval_batches", 0, "at least 1"),
        ("warmup", -1, "at least 0"),
        ("warmup", 2001, "at most steps = 2000"),
        ("sample_tokens", -1, "at least 0"),
        ("seed", -1, "at least 0"),
        ("lr", 0.0, "greater than 0"),
        ("lr", -1e-3, "greater than 0"),
        ("lr", math.nan, "finite"),
        ("lr", math.inf, "finite"),
        ("lr", None, "finite"),
        ("min_lr", 0.01, "at most lr = 0.001, not 0.01"),
        ("min_lr", -0.1, "at least 0, not -0.1"),
        ("beta1", 1.0, "less than 1"),
        ("beta2", -0.1, "less than 1"),
        ("weight_decay", -0.1, "at least 0"),
        ("momentum", -0.1, "at least 0"),
        ("optimizer", "Adam", r"rmsprop or sgd \(did you mean adam\?\), not Adam"),
        ("schedule", "step", "inverse_sqrt, one_cycle or step_decay, not step"),
        ("decay_every", 0, "at least 1"),
        ("decay_factor", 1.0, "greater than 0 and less than 1"),
        ("pct_start", 1.5, "at least 0 and less than 1"),
        ("div_factor", 0.0, "greater than 0"),
        ("final_div_factor", -1.0, "greater than 0"),
        ("clip", -1.0, "at least 0"),
        ("val_ratio", 0.0, "greater than 0 and less than 1"),
        ("val_ratio", 1.0, "greater than 0 and less than 1"),
        ("precision", "float16", "precision must be float32 or bf16, not float16"),
        ("precision", None, "must be float32 or bf16, not None"),
    ],
)
def test_a_setting_out_of_range_is_named(name: str, value: Any, words: str):
    with pytest.raises(UserError, match=words):
        TrainingSettings(**{name: value})


def test_json_keeps_every_setting():
    settings = TrainingSettings(steps=7, lr=1 / 3, warmup=0, seed=2**70, precision="bf16")
    assert TrainingSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def test_settings_without_a_precision_mean_float32():
    data = TrainingSettings().to_dict()
    del data["precision"]
    assert TrainingSettings.from_dict(data) == TrainingSettings()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lr": None}, "'lr' is missing"),
        ({"beta3": 0.9}, "'beta3' is unknown"),
    ],
)
def test_json_must_be_complete_and_known(change: dict[str, Any], words: str):
    data = TrainingSettings().to_dict() | change
    with pytest.raises(UserError, match=words):
        TrainingSettings.from_dict({k: v for k, v in data.items() if v is not None})
    with pytest.raises(UserError, match="must be a dict"):
        TrainingSettings.from_dict([])


def test_warmup_is_at_most_a_tenth_of_a_short_run():
    assert [sensible_warmup(n) for n in (1, 9, 50, 1000, 2000)] == [0, 0, 5, 100, 100]
