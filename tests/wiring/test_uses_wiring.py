"""Options that do not change the result are used; a model is refused by a command for others."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from byhand.cli.main import main
from byhand.data import ArrayDataset, EpochSampler
from byhand.data.splits import Splits
from byhand.generation import generate, stream_ids
from byhand.models.gpt import GPT, GPTConfig
from byhand.models.mlp import MLP, MLPConfig
from byhand.nn import Buffer, Linear, Module, init
from byhand.optim import AdamW, WarmupCosine
from byhand.runs import Run, RunConfig, TrainingSettings
from byhand.runs.config import Table
from byhand.tasks import Classification
from byhand.training import Trainer


@pytest.mark.parametrize("function", [generate, lambda *a, **k: list(stream_ids(*a, **k))])
def test_the_cache_is_made_unless_it_is_declined(function: Any, monkeypatch: pytest.MonkeyPatch):
    model = GPT(GPTConfig(14, 6, 8, 2, 1))
    made: list[int] = []
    plain = model.new_cache
    monkeypatch.setattr(model, "new_cache", lambda size: made.append(size) or plain(size))
    lengths: list[int] = []
    forward = model.decoder.forward
    monkeypatch.setattr(
        model.decoder,
        "forward",
        lambda ids, **o: lengths.append(ids.shape[1]) or forward(ids, **o),
    )
    function(model, [1, 2, 3], max_new_tokens=3)
    assert made == [1]
    assert lengths == [3, 1, 1]
    function(model, [1, 2, 3], max_new_tokens=3, use_cache=False)
    assert made == [1]
    assert lengths[3:] == [3, 4, 5]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a classifier."""
    folder = tmp_path_factory.mktemp("classifier")
    x = np.random.default_rng(0).standard_normal((12, 5)).astype(np.float32)
    rows = ArrayDataset(x=x, labels=np.arange(12) % 3)
    config, settings = MLPConfig(5, 3, (4,)), TrainingSettings(steps=1, warmup=0)
    run = Run(folder)
    described = Table.of("rows", **rows.arrays)
    run.create(RunConfig("mlp", config, settings, described, task="classification"))
    model = MLP(config)
    Trainer(
        Classification(model),
        Splits(rows, lambda: [rows.batch(np.arange(12))]),
        EpochSampler(12, 4),
        AdamW(model),
        WarmupCosine(0.1, 0, 1, 0.0),
        settings,
        run,
    ).run()
    return folder


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (("generate",), "does not generate text"),
        (("eval",), "does not predict text"),
        (("train", "--resume", "--out"), "was not made by `byhand train`"),
    ],
)
def test_a_classifier_is_refused_by_the_commands_for_text(
    command: tuple[str, ...],
    sentence: str,
    classifier: Path,
    capsys: pytest.CaptureFixture[str],
):
    assert main([*command, str(classifier)]) == 2
    assert sentence in capsys.readouterr().err


class WithTable(Module):
    """y = x W + table, with an initialiser that cannot be pickled."""

    def __init__(self) -> None:
        self.table = Buffer((3,), lambda rng, shape: np.arange(3.0))
        self.linear = Linear(2, 3, weight_init=init.ones)

    def forward(self, x: Any) -> Any:
        return self.linear(x) + self.table.value


def test_a_built_buffer_is_pickled_with_its_values_and_an_unbuilt_one_keeps_its_initialiser():
    built = WithTable().build()
    built.table.value = built.table.value + 1
    for same in (copy.deepcopy(built), pickle.loads(pickle.dumps(built))):
        assert same.table.value.tolist() == [1, 2, 3]
    unbuilt = copy.deepcopy(WithTable())
    assert unbuilt.build().table.value.tolist() == [0, 1, 2]
