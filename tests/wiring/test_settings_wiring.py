"""Every training setting reaches its consumer."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from byhand.data import consecutive_windows
from byhand.generation import generate
from byhand.models.gpt import GPT, GPTConfig
from byhand.runs import RunConfig, TrainingSettings
from byhand.runs.log import read_log
from byhand.training import Trainer
from byhand.training.setup import text_trainer
from tests.training import small
from tests.wiring import by_hand

USUAL: dict[str, Any] = {
    "steps": 6,
    "batch_size": 3,
    "accumulate": 2,
    "lr": 0.02,
    "min_lr": 0.005,
    "warmup": 2,
    "schedule": "cosine",
    "decay_every": 2,
    "decay_factor": 0.5,
    "pct_start": 0.5,
    "div_factor": 4.0,
    "final_div_factor": 3.0,
    "optimizer": "adamw",
    "momentum": 0.5,
    "beta1": 0.8,
    "beta2": 0.95,
    "weight_decay": 0.3,
    "clip": 0.5,
    "eval_every": 4,
    "eval_batches": 2,
    "sample_tokens": 5,
    "val_ratio": 0.2,
    "seed": 3,
    "precision": "float32",
}

# Settings that change the weights, each with other values than the usual one.
OF_THE_WEIGHTS: dict[str, tuple[Any, ...]] = {
    "steps": (5,),
    "batch_size": (4,),
    "accumulate": (1, 3),
    "lr": (0.03,),
    "min_lr": (0.0, 0.02),
    "warmup": (0, 4),
    "schedule": ("constant", "inverse_sqrt", "one_cycle", "step_decay"),
    "decay_every": (1, 3),
    "decay_factor": (0.1,),
    "pct_start": (0.8,),
    "div_factor": (1.0,),
    "final_div_factor": (0.2,),
    "optimizer": ("sgd", "adam", "rmsprop", "adagrad"),
    "momentum": (0.0, 0.9),
    "beta1": (0.0, 0.9),
    "beta2": (0.5, 0.99),
    "weight_decay": (0.0, 0.6),
    "clip": (0.0, 0.1, 1.0),
    "val_ratio": (0.5,),
    "seed": (0, 4),
    "precision": ("bf16",),
}
# What else is set where a setting has no effect on the usual run.
ALSO: dict[str, dict[str, Any]] = {
    "momentum": {"optimizer": "sgd", "lr": 0.5},
    **{name: {"schedule": "step_decay"} for name in ("decay_every", "decay_factor")},
    **{name: {"schedule": "one_cycle"} for name in ("pct_start", "div_factor", "final_div_factor")},
}
# Those that change evaluations only, each with a test below that is named after it.
OF_EVALUATIONS = {"eval_every", "eval_batches", "sample_tokens"}


def config(dropout: float = 0.0, **settings: Any) -> RunConfig:
    """Without biases: the gradient of a key's bias is zero but for rounding errors, of which AdamW
    would make updates as large as the learning rate.
    """
    made = small.config(dropout=dropout, **{**USUAL, **settings})
    return dataclasses.replace(made, model=made.model.replace(use_bias=False))


def trainer_of(of: RunConfig, **options: Any) -> Trainer:
    return text_trainer(of, small.TOKENIZER, small.text(), **options)


def weights(trainer: Trainer) -> dict[str, Any]:
    return {name: p.value.copy() for name, p in trainer.model.named_parameters()}


def distance(one: dict[str, Any], other: dict[str, Any]) -> float:
    assert one.keys() == other.keys()
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


def check_against_numpy(of: RunConfig) -> by_hand.Trained:
    trainer, wanted = trainer_of(of), by_hand.train(of)
    assert trainer.run() is None
    assert distance(weights(trainer), wanted.weights) < 2e-4
    steps = [record for record in trainer.history if "loss" in record]
    assert [r["step"] for r in steps] == list(range(1, of.training.steps + 1))
    assert [r["lr"] for r in steps] == pytest.approx(wanted.rates)
    assert [r["loss"] for r in steps] == pytest.approx(wanted.losses, abs=1e-4)
    if of.training.clip:
        assert [r["norm"] for r in steps] == pytest.approx(wanted.norms, rel=1e-2)
    else:
        assert [r["norm"] for r in steps] == [None] * len(steps)
    return wanted


def test_every_setting_has_a_test():
    fields = {field.name for field in dataclasses.fields(TrainingSettings)}
    assert fields == OF_THE_WEIGHTS.keys() | OF_EVALUATIONS
    assert fields == USUAL.keys()
    assert all(f"test_{name}" in globals() for name in OF_EVALUATIONS)
    for name, values in OF_THE_WEIGHTS.items():
        assert USUAL[name] not in values


@pytest.fixture(scope="module")
def usual() -> by_hand.Trained:
    """The usual settings, which clip in every step."""
    found = check_against_numpy(config())
    assert min(found.norms) > USUAL["clip"]
    return found


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in OF_THE_WEIGHTS.items() for value in values],
)
def test_a_setting_changes_the_weights_as_its_formula_says(
    name: str, value: Any, usual: by_hand.Trained
):
    also = ALSO.get(name, {})
    found = check_against_numpy(config(**{**also, name: value}))
    before = by_hand.train(config(**also)) if also else usual
    # It differs by far more than the tolerance above, so a setting that is not used is noticed.
    assert distance(found.weights, before.weights) > 1e-3


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop", "adagrad"])
@pytest.mark.parametrize(
    ("name", "value"), [("momentum", 0.9), ("beta1", 0.5), ("beta2", 0.5), ("weight_decay", 2.0)]
)
def test_every_optimizer_gets_its_settings(optimizer: str, name: str, value: float):
    check_against_numpy(config(**{"optimizer": optimizer, name: value}))


def test_the_dropout_of_the_model_is_used_with_masks_from_the_seed(usual: by_hand.Trained):
    found = check_against_numpy(config(dropout=0.3))
    assert distance(found.weights, usual.weights) > 1e-3
    # The first loss shows the masks alone: with another seed of theirs it differs.
    other = trainer_of(config(dropout=0.3))
    other.model.generator.seed += 1
    other.train_step()
    assert other.history[0]["loss"] != pytest.approx(found.losses[0], abs=1e-3)


@pytest.mark.parametrize("seed", [0, 5])
def test_the_seed_reaches_the_weights_the_batches_the_masks_and_the_samples(seed: int):
    of = config(dropout=0.2, seed=seed)
    trainer = trainer_of(of)
    model = GPT(of.model, seed)  # type: ignore[arg-type]
    assert distance(weights(trainer), {n: p.value for n, p in model.named_parameters()}) == 0
    assert trainer.model.generator.seed == model.generator.seed
    rng = np.random.Generator(np.random.PCG64(seed))
    ids, _ = by_hand.parts(of)
    for _ in range(3):
        assert next(trainer.sampler).tolist() == rng.integers(len(ids) - 6, size=3).tolist()
    shown: list[str | None] = []
    trainer.report = lambda metrics, is_best, sample: shown.append(sample)  # type: ignore[method-assign]
    trainer.evaluate()
    prompt = small.TOKENIZER.encode(small.TOKENIZER.start)
    drawn = int(np.random.default_rng([seed, 0]).integers(2**63))
    names = {"max_new_tokens": 5, "do_sample": True, "overflow": "window", "seed": drawn}
    text = generate(model, prompt, **names)[0, len(prompt) :]
    assert shown == [small.TOKENIZER.decode(text)]


@pytest.mark.parametrize(("every", "steps"), [(1, [0, 1, 2, 3]), (2, [0, 2, 3]), (9, [0, 3])])
def test_eval_every(every: int, steps: list[int], tmp_path: Path):
    of = config(steps=3, eval_every=every)
    small.new_trainer(tmp_path, of).run()
    records = list(read_log(tmp_path / "log.jsonl"))
    assert [r["step"] for r in records if "validation_loss" in r] == steps
    samples = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert samples == [f"step_{step:06d}.txt" for step in steps]


@pytest.mark.parametrize("batches", [1, 2, 7])
def test_eval_batches(batches: int):
    """The evaluation takes so many batches of whole windows, spread over the validation part."""
    of = config(eval_batches=batches)
    trainer = trainer_of(of)
    trainer.evaluate()
    _, ids = by_hand.parts(of)
    count, limit = (len(ids) - 1) // 6, batches * 3
    starts = [6 * (i * count // limit) for i in range(limit)]
    windows = np.stack([ids[s : s + 7] for s in starts]).astype(np.int64)
    loss = GPT(of.model, 3).loss(windows[:, :-1].copy(), windows[:, 1:].copy())  # type: ignore[arg-type]
    assert trainer.history[0]["validation_loss"] == pytest.approx(float(loss), rel=1e-6)
    made = list(trainer.data.validation())
    assert [len(batch["ids"]) for batch in made] == [3] * batches


@pytest.mark.parametrize("tokens", [0, 1, 9])
def test_sample_tokens(tokens: int, tmp_path: Path):
    small.new_trainer(tmp_path, config(steps=1, warmup=0, sample_tokens=tokens)).run()
    written = [path.read_text() for path in (tmp_path / "samples").iterdir()]
    assert [len(text) for text in written] == ([tokens + 1] * 2 if tokens else [])


def test_the_context_is_the_length_of_the_windows():
    of = config()
    longer = dataclasses.replace(of, model=of.model.replace(context_size=11))
    trainer = trainer_of(longer)
    assert trainer.data.train.batch(next(trainer.sampler))["ids"].shape == (3, 11)
    assert next(iter(trainer.data.validation()))["ids"].shape == (3, 11)


def test_recompute_and_the_run_reach_the_trainer(tmp_path: Path):
    of = config()
    display = small.Quiet()
    assert trainer_of(of).model.decoder.recompute is False
    assert trainer_of(of).run_folder is trainer_of(of).display is None
    run = small.Run(tmp_path)
    made = trainer_of(of, recompute=True, run=run, display=display)
    assert made.model.decoder.recompute is True
    assert made.run_folder is run
    assert made.display is display  # type: ignore[comparison-overlap]


def test_every_size_of_the_model_reaches_it():
    """The shapes of the parameters are those that the sizes say."""
    sizes = {
        "vocabulary_size": 11,
        "context_size": 7,
        "embedding_dim": 12,
        "num_heads": 3,
        "num_layers": 2,
        "dropout": 0.25,
        "use_bias": True,
        "tie_weights": False,
        "norm": "post",
        "positions": "learned",
        "attention": "linear",
    }
    assert sizes.keys() == {field.name for field in dataclasses.fields(GPTConfig)}
    model = GPT(GPTConfig(**sizes))
    shapes = {name: p.shape for name, p in model.named_parameters()}
    assert shapes["decoder.tokens.weight"] == shapes["head.weight"] == (11, 12)
    assert shapes["decoder.positions.weight"] == (7, 12)
    assert shapes["decoder.blocks.1.attention.qkv.weight"] == (36, 12)
    assert shapes["decoder.blocks.1.ffn.up.weight"] == (48, 12)
    assert "decoder.blocks.2.ffn.up.weight" not in shapes
    assert "decoder.blocks.0.ffn.up.bias" in shapes
    assert "decoder.norm.weight" not in shapes
    assert [c.shape for c in (model.new_cache(2).layers[0].keys,)] == [(2, 7, 3, 4)]
    assert model.decoder.blocks[1].attention.num_heads == 3
    plain = GPT(GPTConfig(**{**sizes, "use_bias": False, "tie_weights": True}))
    names = [name for name, _ in plain.named_parameters()]
    assert not [name for name in names if name.endswith("bias") or name == "head.weight"]


@pytest.mark.parametrize("p", [0.0, 0.2, 0.4])
def test_dropout_is_used_at_the_embedding_in_attention_and_before_each_residual(p: float):
    block = GPT(GPTConfig(11, 7, 12, 3, 1, dropout=p)).decoder
    assert block.dropout.p == p
    assert block.blocks[0].attention.p == p
    assert block.blocks[0].attention.dropout.p == p
    assert block.blocks[0].ffn.dropout.p == p


def test_validation_covers_the_whole_part_when_there_are_batches_enough():
    of = config(eval_batches=1000)
    trainer = trainer_of(of)
    _, ids = by_hand.parts(of)
    made = list(trainer.data.validation())
    assert [b["ids"].tolist() for b in made] == [
        b["ids"].tolist() for b in consecutive_windows(ids, 6, 3)
    ]
