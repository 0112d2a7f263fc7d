"""A GPT's training step on the CUDA kernels, through the same Python code as on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from byhand import GPT, GPTConfig, optim
from byhand.training.graph import StepGraph
from tests.cuda import cupy_double

CONFIG = GPTConfig(vocabulary_size=19, context_size=12, embedding_dim=24, num_heads=3, num_layers=2)


@pytest.fixture
def cupy(on_cpu, monkeypatch) -> cupy_double.Cupy:
    return cupy_double.install(monkeypatch)


def made(device: str, config: GPTConfig = CONFIG) -> tuple[GPT, optim.AdamW]:
    model = GPT(config, seed=4)
    model.to(device)
    return model, optim.AdamW(model, lr=3e-3, betas=(0.9, 0.99), weight_decay=0.1)


def batches(steps: int, each: int = 1) -> list[list[tuple[Any, Any]]]:
    rng = np.random.default_rng(8)
    drawn = rng.integers(0, CONFIG.vocabulary_size, (steps, each, 2, 3, 12))
    return [[(ids, targets) for ids, targets in step] for step in drawn]


def on_the_cpu(model: GPT, optimizer: optim.AdamW, steps: Any) -> list[tuple[float, float]]:
    found = []
    for step in steps:
        model.zero_grad()
        loss = 0.0
        for ids, targets in step:
            loss += float(model.loss(ids, targets, 1 / len(step))) / len(step)
            model.backward()
        found.append((loss, float(optimizer.step(clip_norm=0.5))))
    return found


@pytest.mark.parametrize("each", [1, 3])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_ten_steps_are_those_of_the_cpu(each, dropout, cupy):
    config = GPTConfig(**{**CONFIG.to_dict(), "dropout": dropout})
    steps = batches(10, each)
    host, expected = made("cpu", config), []
    model, optimizer = made("cuda", config)
    step = StepGraph(model, optimizer, clip_norm=0.5)
    for i, step_batches in enumerate(steps):
        host[1].lr = optimizer.lr = 3e-3 / (1 + i)
        expected += on_the_cpu(*host, [step_batches])
        step(step_batches)
    np.testing.assert_allclose(step.read(), expected, rtol=2e-5)
    np.testing.assert_allclose(model.arena.values.get(), host[0].arena.values, rtol=1e-4, atol=1e-5)
    assert optimizer.step_count == host[1].step_count == 10
    assert not model.arena.grads.get().any()
    assert [graph.launches for graph in cupy.graphs] == (
        [] if dropout else [8] if each == 1 else [18, 8]
    )
