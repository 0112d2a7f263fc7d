"""Altered checkpoints with a right SHA-256: one sentence, or a state that can be continued."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from byhand.errors import UserError
from byhand.runs import Run, load_trained
from byhand.runs.checkpoint import Checkpoint, pack, read
from byhand.training import Trainer
from byhand.training.resume import changes
from byhand.training.setup import text_trainer
from tests.training import small

REMOVED = object()
# Fields that earlier versions did not write.
MAY_BE_ABSENT = ("edition", "precision", "norm", "positions", "attention", "optimizer", "schedule",
                 "momentum", "decay_every", "decay_factor", "pct_start", "div_factor",
                 "final_div_factor")  # fmt: skip
VALUES = (REMOVED, None, True, -1, 2**70, 1.5, "x", [], {"a": 1}, "1e5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    small.new_trainer(folder, small.config(steps=4, eval_every=2)).run()
    (folder / "best.safetensors").unlink()
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> Checkpoint:
    return read(folder / "last.safetensors")


@pytest.fixture(scope="module")
def trainer(folder: Path) -> Trainer:
    run = Run(folder)
    of = run.read_config()
    return text_trainer(of, small.TOKENIZER, small.text(), run, small.Quiet())  # type: ignore


def resume(folder: Path, trainer: Trainer) -> str | None:
    """The sentence with which resuming is refused; None if it is not."""
    run = trainer.run_folder
    assert run is not None
    try:
        load_trained(folder, "last")
        saved = run.read_checkpoint("last", run.read_config())
        trainer.restore(saved, "last.safetensors")
    except UserError as error:
        return str(error)
    changes(trainer, saved)
    trainer.evaluation_is_due()
    next(trainer.sampler)
    assert trainer.step >= 0
    assert min(trainer.evaluated, trainer.best_step) >= -1
    assert trainer.seconds >= 0
    return None


def places(data: Any, *path: Any) -> Iterator[tuple[Any, ...]]:
    """The paths of everything in nested dicts."""
    if path:
        yield path
    if isinstance(data, dict):
        for name, value in data.items():
            yield from places(value, *path, name)


@pytest.mark.deep
def test_every_altered_state_is_refused_or_possible(
    folder: Path, whole: Checkpoint, trainer: Trainer
):
    refused = 0
    for path in places(whole.state):
        for value in VALUES:
            state = copy.deepcopy(whole.state)
            within = state
            for name in path[:-1]:
                within = within[name]
            if value is REMOVED:
                del within[path[-1]]
            else:
                within[path[-1]] = value
            (folder / "last.safetensors").write_bytes(pack(whole.tensors, state))
            sentence = resume(folder, trainer)
            refused += sentence is not None
            assert "\n" not in (sentence or "")
            if value is REMOVED and path[0] != "backend":
                assert sentence is not None or path[-1] in MAY_BE_ABSENT, path
            if isinstance(value, (list, dict)) and path not in (("backend",), ("sampler",)):
                assert sentence is not None, (path, value)
    assert refused > 300
    (folder / "last.safetensors").write_bytes(pack(whole.tensors, whole.state))
    assert resume(folder, trainer) is None


def test_every_altered_tensor_is_refused_by_name(folder: Path, whole: Checkpoint, trainer: Trainer):
    for name, tensor in whole.tensors.items():
        others = [
            None,
            tensor.astype(np.float64),
            tensor.astype(np.int32),
            tensor[None],
            tensor[:-1],
            np.zeros((0, *tensor.shape[1:]), tensor.dtype),
        ]
        for other in others:
            tensors = dict(whole.tensors)
            del tensors[name]
            if other is not None:
                tensors[name] = other
            (folder / "last.safetensors").write_bytes(pack(tensors, whole.state))
            sentence = resume(folder, trainer)
            assert sentence is not None, name
            assert name.split(".", 1 if name.startswith("model") else 2)[-1] in sentence
    (folder / "last.safetensors").write_bytes(pack(whole.tensors, whole.state))
    assert resume(folder, trainer) is None
