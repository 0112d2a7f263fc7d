"""A default means what its documentation says: leaving the argument out is giving that value."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from byhand.data import EpochSampler, RandomSampler, TextData, stratified_folds
from byhand.generation import generate, stream_ids
from byhand.models.gpt import GPT, GPTConfig
from byhand.models.mlp import MLP, MLPConfig
from byhand.runs import TrainingSettings, load
from byhand.runs.settings import sensible_warmup
from byhand.tasks import LanguageModel
from byhand.training.setup import text_trainer
from tests.training import small

MODEL = GPT(GPTConfig(14, 6, 8, 2, 1), seed=3)
MODEL.head.weight.value = MODEL.head.weight.value * 30  # its distributions are far from uniform
PROMPT = np.array([3, 1, 4])
DRAWN = {"max_new_tokens": 40, "overflow": "window", "do_sample": True}


def weights(model: Any) -> list[list[float]]:
    return [p.value.reshape(-1).tolist() for p in model.parameters()]


def generated(**options: Any) -> list[int]:
    return generate(MODEL, PROMPT, **{**DRAWN, **options}).ravel().tolist()


def streamed(**options: Any) -> list[int]:
    return list(stream_ids(MODEL, PROMPT, **{**DRAWN, **options}))


def drawn(**options: Any) -> list[int]:
    sampler = RandomSampler(50, 4, **options)
    return [int(i) for _ in range(3) for i in next(sampler)]


def passes(**options: Any) -> list[list[int]]:
    sampler = EpochSampler(7, 3, **options)
    return [next(sampler).tolist() for _ in range(6)]


def folds(**options: Any) -> list[list[int]]:
    return [test.tolist() for _, test in stratified_folds([0, 1] * 6, 3, **options)]


def text_data(**options: Any) -> list[Any]:
    data = TextData(np.arange(300) % 7, 4, 2, **options)
    return [len(data.train), len(data.validation_ids), len(list(data.validation()))]


def gpt_weights(**options: Any) -> Any:
    return weights(GPT(GPTConfig(14, 6, 8, 2, 1), **options))


def gpt_loss(**options: Any) -> float:
    model = GPT(GPTConfig(14, 6, 8, 2, 1), 1, **options)
    ids = np.arange(12).reshape(2, 6)
    return float(model.loss(ids, (ids * 5) % 14))


def mlp_weights(**options: Any) -> Any:
    return weights(MLP(MLPConfig(5, 3), **options))


def mlp_sizes(**options: Any) -> Any:
    return MLPConfig(5, 3, **options).to_dict()


def gpt_sizes(**options: Any) -> Any:
    return GPTConfig(14, 6, 8, 2, 1, **options).to_dict()


def written(**options: Any) -> int:
    task = LanguageModel(MODEL, small.TOKENIZER, **options)
    text = task.sample(np.random.default_rng(0))
    assert text is not None
    return len(text)


def warmup(**options: Any) -> int:
    return sensible_warmup(5000, **options)


def rng(seed: int) -> Any:
    """A new generator each time a row is used."""
    return lambda: np.random.default_rng(seed)


# A function, one of its options, the value that leaving it out means, and another value.
ROWS: list[tuple[Callable[..., Any], str, Any, Any]] = [
    (generated, "temperature", 1.0, 2.0),
    (generated, "top_k", 0, 2),
    (generated, "top_p", 1.0, 0.3),
    (generated, "min_p", None, 0.5),
    (generated, "typical_p", 1.0, 0.3),
    (generated, "repetition_penalty", 1.0, 2.0),
    (generated, "no_repeat_ngram_size", 0, 2),
    (generated, "eos_token_id", None, 3),
    (generated, "bad_words_ids", None, [[3], [1]]),
    (generated, "num_return_sequences", 1, 2),
    (generated, "do_sample", True, False),
    (generated, "seed", 0, 1),
    (streamed, "temperature", 1.0, 2.0),
    (streamed, "top_k", 0, 2),
    (streamed, "seed", 0, 1),
    (streamed, "number", 0, 1),
    (drawn, "seed", 0, 1),
    (passes, "seed", 0, 1),
    (passes, "drop_last", False, True),
    (folds, "seed", 0, 1),
    (text_data, "val_ratio", 0.1, 0.2),
    (text_data, "eval_batches", None, 1),
    (gpt_weights, "seed", 0, 1),
    (gpt_loss, "precision", "float32", "bf16"),
    (mlp_weights, "seed", 0, 1),
    (mlp_sizes, "hidden_sizes", (100,), (50,)),
    (mlp_sizes, "dropout", 0.0, 0.1),
    (gpt_sizes, "dropout", 0.0, 0.1),
    (gpt_sizes, "use_bias", True, False),
    (gpt_sizes, "tie_weights", True, False),
    (gpt_sizes, "norm", "pre", "post"),
    (gpt_sizes, "positions", "learned", "alibi"),
    (gpt_sizes, "attention", "softmax", "linear"),
    (written, "sample_tokens", 200, 100),
    (warmup, "wanted", 100, 50),
]


@pytest.mark.parametrize(
    ("function", "name", "default", "other"), ROWS, ids=[f"{r[0].__name__}-{r[1]}" for r in ROWS]
)
def test_leaving_an_option_out_is_giving_its_default(
    function: Callable[..., Any], name: str, default: Any, other: Any
):
    given, different = (value() if callable(value) else value for value in (default, other))
    assert function() == function(**{name: given})
    assert function() != function(**{name: different})


def test_the_default_settings_are_the_documented_ones():
    assert TrainingSettings().to_dict() == {
        "steps": 2000,
        "batch_size": 12,
        "accumulate": 1,
        "lr": 1e-3,
        "min_lr": 1e-4,
        "warmup": 100,
        "schedule": "cosine",
        "decay_every": None,
        "decay_factor": 0.1,
        "pct_start": 0.3,
        "div_factor": 25.0,
        "final_div_factor": 1e4,
        "optimizer": "adamw",
        "momentum": 0.9,
        "beta1": 0.9,
        "beta2": 0.99,
        "weight_decay": 0.1,
        "clip": 1.0,
        "eval_every": 250,
        "eval_batches": 40,
        "sample_tokens": 200,
        "val_ratio": 0.1,
        "seed": 0,
        "precision": "float32",
    }


def test_load_takes_the_best_weights_in_the_precision_of_the_training(tmp_path: Path):
    trainer = small.new_trainer(tmp_path, small.config(steps=2, precision="bf16"))
    trainer.run()
    for p in trainer.model.parameters():
        p.value = p.value + 1
    trainer.save("last")
    best, last = load(tmp_path), load(tmp_path, "last")
    assert weights(best) == weights(load(tmp_path, "best")) != weights(last)
    assert weights(last) == weights(trainer.model)
    assert best.precision == "bf16"
    assert load(tmp_path, precision="float32").precision == "float32"
    assert not best.training


def test_a_trainer_for_a_text_is_on_the_cpu_and_writes_nothing():
    trainer = text_trainer(small.config(), small.TOKENIZER, small.text())
    assert not trainer.on_gpu
    assert trainer.run_folder is None
    assert trainer.display is None
    assert trainer.callbacks == []
    assert not trainer.model.decoder.recompute
