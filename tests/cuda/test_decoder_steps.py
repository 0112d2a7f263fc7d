"""Steps of decoder-only models on the CUDA kernels, captured in a graph, equal those of the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from byhand import GPT, Bloom, BloomConfig, GPTConfig, Llama, LlamaConfig, optim
from byhand.generation import generate
from byhand.tasks import LanguageModel
from byhand.training import GraphStep
from tests.cuda.test_step import eager
from tests.models.test_llama_transformers import RELATIVES, SIZES

OTHERS = ("Llama 3", "Qwen2", "Mistral", "Qwen3", "GPT, sinusoidal", "GPT, rotary")
KINDS = ["Llama", "GPT-NeoX", "Bloom", "GPT, alibi"]
kinds = pytest.mark.parametrize(
    "kind", [*KINDS, *(pytest.param(kind, marks=pytest.mark.deep) for kind in OTHERS)]
)
SMALL: dict[str, Any] = dict(context_size=19, embedding_dim=24, num_heads=6, num_layers=3)


def made(kind: str, device: str, **changes: Any) -> tuple[LanguageModel, optim.AdamW]:
    model: Any
    if kind == "Bloom":
        model = Bloom(BloomConfig(SIZES["vocab_size"], **SMALL, **changes), seed=4)
    elif kind.startswith("GPT, "):
        positions = kind.removeprefix("GPT, ")
        config = GPTConfig(SIZES["vocab_size"], **SMALL, positions=positions, **changes)
        model = GPT(config, seed=4)
    else:
        model = Llama(LlamaConfig(**{**SIZES, **RELATIVES[kind][1], **changes}), seed=4)
    model.to(device)
    return LanguageModel(model), optim.AdamW(model, lr=3e-3, eps=1e-5, weight_decay=0.1)


def batches(steps: int) -> list[list[dict[str, Any]]]:
    drawn = np.random.default_rng(8).integers(0, SIZES["vocab_size"], (steps, 2, 3, 13))
    return [[{"ids": ids, "targets": targets}] for ids, targets in drawn]


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@kinds
def test_six_steps_equal_those_of_the_cpu(kind: str, dropout: float, cupy: Any) -> None:
    host, expected = made(kind, "cpu", dropout=dropout), []
    task, optimizer = made(kind, "cuda", dropout=dropout)
    step = GraphStep(task, optimizer, clip_norm=0.5)
    for step_batches in batches(6):
        expected.append(eager(*host, step_batches))
        step(step_batches)
    np.testing.assert_allclose(step.read(), expected, rtol=5e-5)
    on_host = host[0].model.storage.values
    np.testing.assert_allclose(task.model.storage.values.get(), on_host, rtol=1e-4, atol=2e-5)
    assert [graph.launches for graph in cupy.graphs] == [4]


@kinds
def test_generation_is_that_of_the_cpu(kind: str, cupy: Any) -> None:
    ids = [
        generate(made(kind, device)[0].model.inference(), [1, 2, 3], max_new_tokens=9)
        for device in ("cpu", "cuda")
    ]
    np.testing.assert_array_equal(*map(np.ravel, ids))


@kinds
def test_rows_of_different_lengths_are_those_of_the_cpu(kind: str, cupy: Any) -> None:
    names = {"max_new_tokens": 6, "pad_token_id": 0, "do_sample": True, "overflow": "window"}
    ids = [
        generate(made(kind, device)[0].model.inference(), [[1, 2, 3], [4], [5, 6]], **names)
        for device in ("cpu", "cuda")
    ]
    np.testing.assert_array_equal(*ids)
