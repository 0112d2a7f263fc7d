"""Finite differences: the truth a backward pass is held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from byhand.nn.module import Module


class GradcheckError(AssertionError):
    """A gradient disagrees with finite differences."""


@dataclass
class GradcheckReport:
    """Relative error of each gradient: parameters by name, float inputs as "input 0", ..."""

    errors: dict[str, float]
    tolerance: float

    @property
    def worst(self) -> tuple[str, float]:
        return max(self.errors.items(), key=lambda item: item[1])

    def __str__(self) -> str:
        lines = [f"{error:9.1e}  {name}" for name, error in self.errors.items()]
        return "\n".join([*lines, f"worst: {self.worst[0]}, tolerance {self.tolerance:g}"])


def gradcheck(
    model: Module,
    *inputs: Any,
    seed: int = 0,
    eps: float = 1e-5,
    tolerance: float = 1e-6,
    directions: int = 2,
) -> GradcheckReport:
    """Compares the backward pass of ``model`` with central differences in float64.

    The function that is differentiated is ``model.loss(*inputs)`` where the model has a loss, else
    <model(*inputs), random weights>: never a plain sum, whose gradient through a softmax or a norm
    vanishes. Every parameter, and every floating input of a model without a loss, moves along
    random directions u; the error is |(f(w + eps u) - f(w - eps u)) / 2 eps - <grad, u>| relative
    to the larger of the two and of 1e-3 of the largest derivative seen.

    The model is cast to float64 and to products in full precision for the check, and back
    afterwards; its gradients are zero then.
    Dropout draws the same masks at each evaluation. Raises GradcheckError when an error exceeds
    ``tolerance``.
    """
    dtype, precision = model.arena.values.dtype, model.precision
    model.to(dtype="float64")
    model.precision = "float32"  # what is rounded has no derivative
    try:
        report = _check(model, inputs, np.random.default_rng(seed), eps, tolerance, directions)
    finally:
        model.discard_saved()
        model.to(dtype=dtype)
        model.precision = precision
        model.zero_grad()
    if not report.worst[1] <= tolerance:
        raise GradcheckError(
            f"gradcheck: the gradient of {report.worst[0]} is off by {report.worst[1]:.1e} "
            f"(relative; tolerance {tolerance:g})\n{report}"
        )
    return report


def _check(
    model: Module,
    inputs: tuple[Any, ...],
    rng: np.random.Generator,
    eps: float,
    tolerance: float,
    directions: int,
) -> GradcheckReport:
    inputs = tuple(_as_double(x) for x in inputs)
    generators = {
        id(g): g for _, m in model.named_modules() if (g := getattr(m, "generator", None))
    }
    states = {key: generator.state() for key, generator in generators.items()}
    weights: list[np.ndarray] = []

    def rewind() -> None:
        """So that every evaluation draws the same dropout masks."""
        for key, generator in generators.items():
            generator.load_state(states[key])

    def f() -> float:
        rewind()
        with model.no_save():
            if hasattr(model, "loss"):
                return float(model.loss(*inputs))
            return float(np.sum(model(*inputs) * weights[0]))

    # The analytic gradients, once.
    model.zero_grad()
    rewind()
    targets = {name: (p.value, p.grad) for name, p in model.named_parameters()}
    if hasattr(model, "loss"):
        model.loss(*inputs)
        model.backward()
    else:
        weights.append(rng.standard_normal(model(*inputs).shape))
        dx = model.backward(weights[0])
        grads = dx if isinstance(dx, tuple) else (dx,)
        floats = [(i, x) for i, x in enumerate(inputs) if _is_double(x)]
        for (i, x), grad in zip(floats, grads, strict=False):
            targets[f"input {i}"] = (x, grad)

    pairs: dict[str, list[tuple[float, float]]] = {}
    for name, (value, grad) in targets.items():
        for _ in range(directions):
            u = rng.standard_normal(value.shape)
            before = value.copy()
            value[...] = before + eps * u
            above = f()
            value[...] = before - eps * u
            below = f()
            value[...] = before
            pairs.setdefault(name, []).append(
                ((above - below) / (2 * eps), float((grad * u).sum()))
            )

    # A derivative that is zero by construction would be judged by rounding noise alone.
    floor = 1e-3 * max(abs(n) for found in pairs.values() for pair in found for n in pair)
    errors = {
        name: max(abs(a - b) / max(abs(a), abs(b), floor, 1e-300) for a, b in found)
        for name, found in pairs.items()
    }
    return GradcheckReport(errors, tolerance)


def _as_double(x: Any) -> Any:
    if isinstance(x, np.ndarray) and np.issubdtype(x.dtype, np.floating):
        return x.astype(np.float64)
    return x


def _is_double(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype == np.float64
