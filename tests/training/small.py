"""A training run small enough for tests, in this process or in another."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from byhand.models.gpt import GPTConfig
from byhand.runs import Corpus, Run, RunConfig, TrainingSettings
from byhand.runs.checkpoint import Checkpoint, read
from byhand.runs.config import TokenizerId
from byhand.runs.log import read_log
from byhand.text import CharacterTokenizer
from byhand.training import Trainer
from byhand.training.setup import text_trainer

SIZES = "--layers 1 --heads 2 --width 8 --context 6 --batch 3".split()


def text(length: int = 2000) -> str:
    """A random text of few different words, which a small model can learn."""
    rng = np.random.default_rng(0)
    words = rng.choice("to be or not that is the question\n".split(" "), size=length)
    return " ".join(words)[:length]


TOKENIZER = CharacterTokenizer.from_text(text())


def config(path: Path | str = "text", dropout: float = 0.1, **settings: Any) -> RunConfig:
    model = GPTConfig(
        vocabulary_size=len(TOKENIZER),
        context_size=6,
        embedding_dim=8,
        num_heads=2,
        num_layers=1,
        dropout=dropout,
    )
    usual = {"steps": 20, "batch_size": 3, "eval_every": 5, "eval_batches": 2, "sample_tokens": 10}
    training = TrainingSettings(**{**usual, "warmup": 2, **settings})
    data = Corpus.of(str(path), text())
    return RunConfig("gpt", model, training, data, TokenizerId.of(TOKENIZER))


class Quiet:
    """A display that only keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.loss = self.speed = None

    def __enter__(self) -> Quiet:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def say(self, line: str) -> None:
        self.lines.append(line)

    def step(self, *numbers: float) -> None:
        pass

    def evaluating(self, batches: Any, total: int | None = None) -> Any:
        return batches


def new_trainer(folder: Path, of: RunConfig | None = None, device: str = "cpu") -> Trainer:
    """A trainer at step 0 of a new run in `folder`."""
    of = of or config()
    run = Run(folder)
    run.create(of, TOKENIZER)
    return text_trainer(of, TOKENIZER, text(), run, Quiet(), device)  # type: ignore[arg-type]


def resumed_trainer(
    folder: Path, which: str = "last", steps: int | None = None, device: str = "cpu"
) -> Trainer:
    """A trainer that continues from a checkpoint in `folder`."""
    run = Run(folder)
    of = run.read_config()
    if steps is not None:
        of = dataclasses.replace(of, training=of.training.replace(steps=steps))
        run.write_config(of, TOKENIZER)
    trainer = text_trainer(of, TOKENIZER, text(), run, Quiet(), device)  # type: ignore[arg-type]
    trainer.restore(run.read_checkpoint(which, of), which)
    trainer.cut_log()
    return trainer


def stop_after(trainer: Trainer, step: int) -> None:
    """Make the trainer's next run end during the given step, as by Ctrl-C."""
    plain = trainer.train_step

    def train_step() -> None:
        plain()
        if trainer.step == step:
            os.kill(os.getpid(), 2)

    trainer.train_step = train_step  # type: ignore[method-assign]


def untimed(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "seconds"}


def logged(folder: Path) -> list[dict[str, Any]]:
    """The records of the log without their times."""
    return [untimed(record) for record in read_log(folder / "log.jsonl")]


def same_checkpoints(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether two checkpoints are equal in every bit, apart from the time."""
    return (
        one.tensors.keys() == other.tensors.keys()
        and all(t.tobytes() == other.tensors[name].tobytes() for name, t in one.tensors.items())
        and json.dumps(untimed(one.state)) == json.dumps(untimed(other.state))
    )


def same_runs(one: Path, other: Path) -> bool:
    """Whether two finished runs have equal logs, samples and checkpoints."""
    samples = [
        {path.name: path.read_bytes() for path in (run / "samples").iterdir()}
        for run in (one, other)
    ]
    return (
        logged(one) == logged(other)
        and samples[0] == samples[1]
        and all(
            same_checkpoints(read(one / name), read(other / name))
            for name in ("best.safetensors", "last.safetensors")
        )
    )


def command(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    """`byhand ...` in a new process."""
    return subprocess.Popen(
        [sys.executable, "-m", "byhand", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
        **options,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err
