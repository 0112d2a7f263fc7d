"""Rows D17 to D22: the training loop, its settings, samples, validation loss and curves."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest

from byhand import data, nn, optim
from byhand.data import open_corpus
from byhand.errors import UserError
from byhand.models import gpt
from byhand.runs import Corpus, Run, RunConfig, TokenizerId, TrainingSettings, plot
from byhand.tasks.task import Task
from byhand.text import CharacterTokenizer
from byhand.training import Callback, evaluate
from byhand.training.callback import Emit
from byhand.training.setup import text_trainer
from byhand.training.step import EagerStep
from tests.guide.planted import planted
from tests.training import small, test_callbacks, test_trainer

# --- Tests of other folders, with their planted bugs ---------------------------------------------

planted(
    "D17", "the forward pass is not reported", Emit, "forward", lambda right: lambda emit: None
)(test_callbacks.test_the_six_events_of_a_step_come_in_their_order)
planted(
    "D17", "the trainer doubles the learning rate", EagerStep, "__call__",
    lambda right: lambda step, batches, lr=None: right(step, batches, 2 * lr),
)(test_callbacks.test_the_same_loop_in_twelve_lines)  # fmt: skip
planted("D19", "zero_grad does nothing", nn.Module, "zero_grad", lambda right: lambda module: None)(
    test_callbacks.test_gradients_add_up_where_they_are_not_zeroed
)
planted(
    "D20", "samples are saved under the next step", Run, "sample_path",
    lambda right: lambda run, step: right(run, step + 1),
)(test_trainer.test_the_files_of_a_finished_run)  # fmt: skip
planted(
    "D21", "the mean of the means of the batches", Task, "metrics",
    lambda right: lambda task, batch: {
        name: (value / count, 1) for name, (value, count) in right(task, batch).items()
    },
)(test_trainer.test_the_validation_loss_is_the_mean_over_every_token)  # fmt: skip


# --- The guide's settings ------------------------------------------------------------------------


def rarer_evaluations(presets):
    guide = presets["guide"]
    changed = dataclasses.replace(guide, training={**guide.training, "eval_every": 250})
    return {**presets, "guide": changed}


@planted("D18", "it evaluates every 250 steps", gpt, "PRESETS", rarer_evaluations)
def test_d18_the_preset_guide_has_the_guides_numbers(tmp_path: Path):
    """Batches of 64, 5,000 steps, an evaluation and a text every 100, windows of 64 tokens drawn
    with replacement, AdamW, and a newline as the prompt.
    """
    chosen = gpt.PRESETS["guide"]
    settings = TrainingSettings(**chosen.training)
    assert (settings.batch_size, settings.steps, settings.eval_every) == (64, 5000, 100)
    assert (settings.optimizer, chosen.model["context_size"]) == ("adamw", 64)
    text = small.text()
    tokenizer = CharacterTokenizer.from_text(text)
    model = gpt.GPTConfig(len(tokenizer), **{**chosen.model, "num_layers": 1})
    described = Corpus.of("text", text), TokenizerId.of(tokenizer)
    config = RunConfig("gpt", model, settings, *described)
    trainer = text_trainer(config, tokenizer, text)
    assert type(trainer.optimizer) is optim.AdamW
    assert type(trainer.sampler) is data.RandomSampler
    drawn = np.concatenate([next(trainer.sampler) for _ in range(30)])
    assert drawn.shape == (30 * 64,)
    assert len(np.unique(drawn)) < len(drawn), "with replacement"
    batch = trainer.data.train.batch(drawn[:64])
    assert batch["ids"].shape == (64, 64)
    assert tokenizer.start == "\n"
    assert trainer.task.sample_tokens > 0


# --- What a run leaves ---------------------------------------------------------------------------


class Modes(Callback):
    """Whether the model is in training mode at each step and after each evaluation."""

    def __init__(self):
        self.found = []

    def on_forward(self, trainer):
        self.found.append(trainer.model.training)

    def on_evaluate(self, trainer, step, metrics):
        self.found.append(trainer.model.training)


@planted(
    "D21", "dropout stays on", nn.Module, "in_inference",
    lambda right: lambda module: contextlib.nullcontext(),
)  # fmt: skip
def test_d21_the_validation_loss_is_repeatable_and_changes_no_mode():
    """With dropout in the model; also with more batches asked for than there are."""
    text = small.text()
    config = small.config(steps=4, eval_every=2, dropout=0.5)
    trainer = text_trainer(config, small.TOKENIZER, text)
    batches = list(trainer.data.validation())
    losses = [evaluate(trainer.task, batches) for _ in range(2)]
    assert losses[0] == losses[1]
    with trainer.model.in_inference():
        means = [float(trainer.model.loss(b["ids"], b["targets"])) for b in batches]
    counts = [b["targets"].size for b in batches]
    assert losses[0]["loss"] == pytest.approx(np.average(means, weights=counts), rel=1e-5)
    modes = Modes()
    trainer.callbacks.append(modes)
    trainer.run()
    assert modes.found == [True] * (4 + 3)
    # Split by position: the last tenth; 1,000 batches of 3 are more than it has.
    ids = small.TOKENIZER.encode(text)
    of_all = data.TextData(ids, 6, 3, val_ratio=0.1, eval_batches=1000)
    assert np.array_equal(of_all.validation_ids, ids[-200:])
    targets = np.concatenate([b["targets"].ravel() for b in of_all.validation()])
    assert np.array_equal(targets, of_all.validation_ids[1:])


def by_number(right):
    def curve(records, key):
        values = right(records, key)[1]
        return list(range(len(values))), values

    return curve


@planted("D22", "the x of a loss is its number, not its step", plot, "_curve", by_number)
def test_d22_the_curves_are_on_the_right_steps(tmp_path: Path):
    """The training loss of every step and the validation loss of every tenth: in the plot, in JSON
    lines and in a table. Without a run's folder the records are in the trainer's history.
    """
    config = small.config(steps=25, eval_every=10)
    trainer = small.new_trainer(tmp_path, config)
    trainer.run()
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "log.csv").read_text())))
    wanted = {"loss": list(range(1, 26)), "validation_loss": [0, 10, 20, 25]}
    for name, steps in wanted.items():
        assert [r["step"] for r in records if name in r] == steps
        assert [int(row["step"]) for row in rows if row[name]] == steps
        values = [r[name] for r in records if name in r]
        assert [float(row[name]) for row in rows if row[name]] == values
    in_memory = text_trainer(config, small.TOKENIZER, small.text())
    in_memory.run()
    for of in (records, in_memory.history):
        raw, _, validation = plot.loss_figure(of).axes[0].get_lines()
        assert raw.get_xdata().tolist() == wanted["loss"]
        assert raw.get_ydata().tolist() == [r["loss"] for r in records if "loss" in r]
        shown = validation.get_xydata()
        assert shown[~np.isnan(shown[:, 1]), 0].tolist() == wanted["validation_loss"]
        axes = raw.axes
        assert axes.get_xlabel() == "step"
        assert [t.get_text() for t in axes.get_legend().get_texts()] == ["training", "validation"]
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.deep
def test_d20_tiny_shakespeare_is_learned(tmp_path: Path):
    """2,000 steps of the preset tiny: the loss of the whole validation part is near 1.896, the mean
    of three seeds; a text that is written at the end has words and speakers.
    """
    try:
        text = open_corpus("shakespeare")
    except UserError as error:
        pytest.skip(str(error))
    tokenizer = CharacterTokenizer.from_blocks(text.blocks())
    chosen = gpt.PRESETS["tiny"]
    settings = TrainingSettings(**{**chosen.training, "eval_every": 2000}, eval_batches=1000)
    model = gpt.GPTConfig(len(tokenizer), **chosen.model)
    described = Corpus.of("shakespeare", text), TokenizerId.of(tokenizer)
    config = RunConfig("gpt", model, settings, *described)
    run = Run(tmp_path)
    run.create(config, tokenizer)
    trainer = text_trainer(config, tokenizer, text, run)
    trainer.run()
    assert trainer.best_loss < 1.92
    first, last = (run.sample_path(step).read_text() for step in (0, 2000))
    words = set("".join(text.blocks()).lower().split())
    known = [np.mean([w in words for w in s.lower().split()]) for s in (first, last)]
    assert known[0] < 0.2
    assert known[1] > 0.5
