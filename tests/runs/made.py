"""Run folders like those that training writes, made without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from byhand.models.gpt import GPT, GPTConfig
from byhand.runs import Corpus, Run, RunConfig, TrainingSettings
from byhand.runs.checkpoint import pack
from byhand.runs.config import TokenizerId
from byhand.text import CharacterTokenizer

TEXT = "to be or not to be, that is the question\n" * 5
TOKENIZER = CharacterTokenizer.from_text(TEXT)


def config(dropout: float = 0.1, **settings: Any) -> RunConfig:
    model = GPTConfig(len(TOKENIZER), 6, 8, 2, 1, dropout=dropout)
    training = TrainingSettings(**{"steps": 4, "warmup": 2, **settings})
    return RunConfig("gpt", model, training, Corpus.of("text", TEXT), TokenizerId.of(TOKENIZER))


def checkpoint(of: RunConfig, step: int) -> bytes:
    """The checkpoint of a model drawn with the seed `step`, with random moments."""
    model = GPT(of.model, seed=step)
    tensors = {f"model.{name}": np.asarray(v) for name, v in model.state_dict().items()}
    rng = np.random.default_rng(step)
    for slot in ("m", "v"):
        for name, parameter in model.named_parameters():
            moment = rng.normal(size=parameter.shape).astype(np.float32)
            tensors[f"optimizer.{slot}.{name}"] = moment
    return pack(tensors, {"step": step, "config": of.to_dict()})


def run(folder: Path, best: int = 2, last: int = 4, of: RunConfig | None = None) -> Run:
    """A run whose checkpoints are of these steps."""
    of = of or config()
    made = Run(folder)
    made.create(of, TOKENIZER)
    made.save_checkpoint("best", checkpoint(of, best))
    made.save_checkpoint("last", checkpoint(of, last))
    return made
