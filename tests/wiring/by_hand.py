"""Training in plain numpy: what a run with given settings must compute.

Only the loss and the gradient of one batch come from the model; which batches are drawn, how their
gradients add up, clipping, AdamW and the schedule are written here from their formulas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from byhand.models.gpt import GPT
from byhand.runs import RunConfig
from tests.training import small

EPS = 1e-8  # AdamW's


@dataclass
class Trained:
    """The weights after the last step, and of each step its loss, learning rate and norm."""

    weights: dict[str, Any]
    losses: list[float]
    rates: list[float]
    norms: list[float]


def parts(config: RunConfig) -> tuple[Any, Any]:
    """The ids of the training and of the validation part."""
    ids = small.TOKENIZER.encode(small.text())
    cut = int(len(ids) * (1 - config.training.val_ratio))
    return ids[:cut], ids[cut:]


def rate(config: RunConfig, n: int) -> float:
    """The learning rate of update n, counted from 0."""
    s = config.training
    if n < s.warmup:
        return s.lr * (n + 1) / s.warmup
    progress = (n - s.warmup) / (s.steps - s.warmup)
    return s.min_lr + (s.lr - s.min_lr) * (1 + math.cos(math.pi * progress)) / 2


def train(config: RunConfig) -> Trained:
    s = config.training
    model = GPT(config.model, s.seed, s.precision)  # type: ignore[arg-type]
    ids, _ = parts(config)
    context = config.model.context_size  # type: ignore[attr-defined]
    rng = np.random.Generator(np.random.PCG64(s.seed))
    weights = {name: p.value.astype(np.float64) for name, p in model.named_parameters()}
    m = {name: np.zeros_like(w) for name, w in weights.items()}
    v = {name: np.zeros_like(w) for name, w in weights.items()}
    done = Trained(weights, [], [], [])
    for n in range(s.steps):
        loss, grads = 0.0, {name: np.zeros_like(w) for name, w in weights.items()}
        for _ in range(s.accumulate):
            starts = rng.integers(len(ids) - context, size=s.batch_size)
            windows = np.stack([ids[i : i + context + 1] for i in starts]).astype(np.int64)
            model.zero_grad()
            value = model.loss(windows[:, :-1].copy(), windows[:, 1:].copy())
            model.backward()
            loss += float(value) / s.accumulate
            for name, p in model.named_parameters():
                grads[name] += p.grad.astype(np.float64) / s.accumulate
        norm = math.sqrt(sum(float((g**2).sum()) for g in grads.values()))
        factor = min(1.0, s.clip / norm) if s.clip else 1.0
        lr = rate(config, n)
        for name, w in weights.items():
            g = grads[name] * factor
            m[name] = s.beta1 * m[name] + (1 - s.beta1) * g
            v[name] = s.beta2 * v[name] + (1 - s.beta2) * g**2
            step = (m[name] / (1 - s.beta1 ** (n + 1))) / (
                np.sqrt(v[name] / (1 - s.beta2 ** (n + 1))) + EPS
            )
            decay = s.weight_decay if w.ndim > 1 else 0.0
            w -= lr * (step + decay * w)
        for name, p in model.named_parameters():
            p.value = weights[name].astype(np.float32)
        done.losses.append(loss)
        done.rates.append(lr)
        done.norms.append(norm)
    return done
