"""Training in plain numpy: what a run with given settings must compute.

Only the loss and the gradient of one batch come from the model; which batches are drawn, how their
gradients add up, clipping, the optimizers and the schedules are written here from their formulas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from byhand.models.gpt import GPT
from byhand.runs import RunConfig, TrainingSettings
from tests.training import small

EPS = {"adagrad": 1e-10}  # of the optimizers; of the others 1e-8


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
    if s.schedule == "constant":
        return s.lr
    if s.schedule == "inverse_sqrt":
        warmup = max(s.warmup, 1)
        return s.lr * min((n + 1) / warmup, math.sqrt(warmup / (n + 1)))
    if s.schedule == "one_cycle":
        top, first = s.pct_start * s.steps - 1, s.lr / s.div_factor
        if n <= top:
            return _between(first, s.lr, n / top)
        return _between(s.lr, first / s.final_div_factor, (n - top) / (s.steps - 1 - top))
    if s.schedule == "step_decay":
        rate = s.lr
        for _ in range(n // s.decay_every):
            rate *= s.decay_factor
        return rate
    if n < s.warmup:
        return s.lr * (n + 1) / s.warmup
    return _between(s.lr, s.min_lr, (n - s.warmup) / (s.steps - s.warmup))


def _between(start: float, end: float, part: float) -> float:
    """Half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2


def step(s: TrainingSettings, n: int, w: Any, g: Any, m: Any, v: Any) -> Any:
    """Update n of one tensor, without the factor of the learning rate; changes m and v."""
    decay, eps = s.weight_decay if w.ndim > 1 else 0.0, EPS.get(s.optimizer, 1e-8)
    if s.optimizer != "adamw":
        g = g + decay * w
    if s.optimizer == "sgd":
        m[...] = s.momentum * m + g
        return m
    if s.optimizer == "adagrad":
        v += g**2
        return g / (np.sqrt(v) + eps)
    v[...] = s.beta2 * v + (1 - s.beta2) * g**2
    if s.optimizer == "rmsprop":
        m[...] = s.momentum * m + g / (np.sqrt(v) + eps)
        return m
    m[...] = s.beta1 * m + (1 - s.beta1) * g
    mean, square = m / (1 - s.beta1 ** (n + 1)), v / (1 - s.beta2 ** (n + 1))
    return mean / (np.sqrt(square) + eps) + (decay * w if s.optimizer == "adamw" else 0.0)


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
            w -= lr * step(s, n, w, grads[name] * factor, m[name], v[name])
        for name, p in model.named_parameters():
            p.value = weights[name].astype(np.float32)
        done.losses.append(loss)
        done.rates.append(lr)
        done.norms.append(norm)
    return done
