"""A Llama's training step on the CUDA kernels, captured in a graph, equals that of the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from byhand import Llama, optim
from byhand.generation import generate
from byhand.tasks import LanguageModel
from byhand.training import GraphStep
from tests.cuda.test_step import eager
from tests.models.test_llama_transformers import RELATIVES, SIZES, LlamaConfig

OTHERS = ("Llama 3", "Qwen2", "Mistral", "Qwen3")
KINDS = ["Llama", "GPT-NeoX", *(pytest.param(kind, marks=pytest.mark.deep) for kind in OTHERS)]


def made(relative: str, device: str, **changes: Any) -> tuple[LanguageModel, optim.AdamW]:
    config = LlamaConfig(**{**SIZES, **RELATIVES[relative][1], **changes})
    model = Llama(config, seed=4).to(device)
    return LanguageModel(model), optim.AdamW(model, lr=3e-3, eps=1e-5, weight_decay=0.1)


def batches(steps: int) -> list[list[dict[str, Any]]]:
    drawn = np.random.default_rng(8).integers(0, SIZES["vocab_size"], (steps, 2, 3, 13))
    return [[{"ids": ids, "targets": targets}] for ids, targets in drawn]


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("relative", KINDS)
def test_six_steps_equal_those_of_the_cpu(relative: str, dropout: float, cupy: Any) -> None:
    host, expected = made(relative, "cpu", dropout=dropout), []
    task, optimizer = made(relative, "cuda", dropout=dropout)
    step = GraphStep(task, optimizer, clip_norm=0.5)
    for step_batches in batches(6):
        expected.append(eager(*host, step_batches))
        step(step_batches)
    np.testing.assert_allclose(step.read(), expected, rtol=5e-5)
    on_host = host[0].model.storage.values
    np.testing.assert_allclose(task.model.storage.values.get(), on_host, rtol=1e-4, atol=2e-5)
    assert [graph.launches for graph in cupy.graphs] == [4]


@pytest.mark.parametrize("relative", KINDS)
def test_generation_is_that_of_the_cpu(relative: str, cupy: Any) -> None:
    ids = [
        generate(made(relative, device)[0].model.inference(), [1, 2, 3], 9, temperature=0.0)
        for device in ("cpu", "cuda")
    ]
    np.testing.assert_array_equal(*map(np.ravel, ids))
