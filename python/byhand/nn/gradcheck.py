"""Comparing backward passes with finite differences."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from byhand.nn.module import Module
from byhand.ops import check


class GradcheckError(AssertionError):
    """A gradient disagrees with finite differences."""


@dataclass
class GradcheckReport:
    """Relative error of each gradient: parameters by path, float inputs as "input 0", ..."""

    errors: dict[str, float]
    tolerance: float

    @property
    def worst(self) -> tuple[str, float]:
        # NaN compares as neither larger nor smaller; it must count as the largest error.
        return max(
            self.errors.items(), key=lambda item: math.inf if math.isnan(item[1]) else item[1]
        )

    def __str__(self) -> str:
        lines = [f"{error:9.1e}  {name}" for name, error in self.errors.items()]
        return "\n".join([*lines, f"worst: {self.worst[0]}, tolerance {self.tolerance:g}"])


def gradcheck(
    module: Module,
    *inputs: Any,
    loss: bool | None = None,
    seed: int = 0,
    eps: float = 1e-4,
    tolerance: float = 1e-6,
    directions: int = 2,
) -> GradcheckReport:
    """Compares the backward pass of ``module`` with finite differences in float64.

    The function that is differentiated is ``module.loss(*inputs)`` where the module has a loss
    (``loss=False`` ignores it), else the inner product of ``module(*inputs)`` with random weights:
    the gradient of a plain sum through a softmax or a norm would be zero. Every trainable
    parameter, and every floating input of a module without a loss, is moved along random
    directions u. Central differences of steps eps and eps/2 are extrapolated (Richardson, 1911),
    so the error of the difference falls as eps^4. The reported error is
    |difference - <gradient, u>|, relative to the largest of the difference, <gradient, u> and 1e-3
    of the largest derivative seen.

    A copy of the module is checked, in float64 with products in full precision, and in the mode
    that the module is in; the module itself is not changed, and may be unbuilt. Dropout draws the
    same masks at each evaluation.

    Raises GradcheckError when an error exceeds ``tolerance``, when ``backward`` returns no gradient
    of a floating input, one of another shape, or leaves something that ``forward`` pushed;
    TypeError for what is not a module or returns no array, ValueError for eps or directions of 0
    and when there is nothing to check.
    """
    if not isinstance(module, Module):
        raise TypeError(f"gradcheck takes a Module, got {type(module).__name__}")
    if loss is not None and not isinstance(loss, bool):
        raise TypeError(f"gradcheck: loss must be a bool or None, got {type(loss).__name__}")
    for name, value in (("eps", eps), ("directions", directions)):
        if not value > 0:
            raise check.wrong_value("gradcheck", name, "greater than 0", value)
    copied = copy.deepcopy(module)
    if any(not p.built for p in copied.parameters()) or copied._storage is None:
        copied.build(seed)
    for (_, part), (_, original) in zip(
        copied.named_modules(), module.named_modules(), strict=True
    ):
        part._training, part._saves = original.training, True
    copied.precision = "float32"  # a rounded function has no derivative
    copied.to("cpu", "float64")
    use_loss = hasattr(copied, "loss") if loss is None else loss
    rng = np.random.default_rng(seed)
    report = _check(copied, inputs, use_loss, rng, eps, tolerance, directions)
    if not report.worst[1] <= tolerance:
        raise GradcheckError(
            f"gradcheck: the gradient of {report.worst[0]} is off by {report.worst[1]:.1e} "
            f"(relative; tolerance {tolerance:g})\n{report}"
        )
    return report


def _check(
    model: Any,
    inputs: tuple[Any, ...],
    use_loss: bool,
    rng: np.random.Generator,
    eps: float,
    tolerance: float,
    directions: int,
) -> GradcheckReport:
    inputs = tuple(_as_double(x) for x in inputs)
    masks = model.generator.state_dict()
    weights: list[np.ndarray] = []
    no_save = model.no_save()

    def f() -> float:
        model.generator.load_state_dict(masks)  # the same dropout masks at every evaluation
        with no_save:
            if use_loss:
                return float(model.loss(*inputs))
            return float(np.sum(model(*inputs) * weights[0]))

    # The gradients of the backward pass.
    model.zero_grad()
    targets = {n: (p.value, p.grad) for n, p in model.named_parameters() if p.trainable}
    if use_loss:
        model.loss(*inputs)
        model.backward()
    else:
        y = model(*inputs)
        if not isinstance(y, np.ndarray):
            raise TypeError(
                f"gradcheck: {type(model).__name__} must return an array, got {type(y).__name__}"
            )
        weights.append(np.asarray(rng.standard_normal(y.shape)))
        targets |= _input_gradients(inputs, model.backward(weights[0]))
    for name, part in model.named_modules():
        if part.__dict__.get("_saved"):
            raise GradcheckError(
                f"gradcheck: backward of {name or 'the module'} ({type(part).__name__}) did not "
                "pop all that its forward pushed"
            )
    if not targets:
        raise ValueError("gradcheck: no parameter is trained and no input is floating")

    pairs: dict[str, list[tuple[float, float]]] = {}
    for name, (value, grad) in targets.items():
        for _ in range(directions):
            u = rng.standard_normal(value.shape)
            before = value.copy()

            def difference(step: float) -> float:
                value[...] = before + step * u  # noqa: B023
                above = f()
                value[...] = before - step * u  # noqa: B023
                below = f()
                return (above - below) / (2 * step)

            numeric = (4 * difference(eps / 2) - difference(eps)) / 3
            value[...] = before
            pairs.setdefault(name, []).append((numeric, float((grad * u).sum())))

    # For a derivative that is exactly zero the relative error would be rounding noise alone.
    largest = max((abs(n) for found in pairs.values() for pair in found for n in pair), default=0.0)
    floor = max(1e-3 * largest, 1e-300)
    errors = {
        name: max((_relative(a, b, floor) for a, b in found), key=_nan_first)
        for name, found in pairs.items()
    }
    return GradcheckReport(errors, tolerance)


def _input_gradients(inputs: tuple[Any, ...], dx: Any) -> dict[str, Any]:
    """{name: (input, gradient)} of each floating input. ``backward`` returned dx: the gradients of
    all inputs, or of the floating ones.
    """
    grads = dx if isinstance(dx, tuple) else (dx,)
    floats = [i for i, x in enumerate(inputs) if _is_double(x)]
    positions = range(len(inputs)) if len(grads) == len(inputs) else floats
    of = dict(zip(positions, grads, strict=False))  # what is missing is named below
    found = {}
    for i in floats:
        if of.get(i) is None:
            raise GradcheckError(f"gradcheck: backward returned no gradient of input {i}")
        if of[i].shape != inputs[i].shape:
            raise GradcheckError(
                f"gradcheck: the gradient of input {i} has shape {of[i].shape}, where the input "
                f"has {inputs[i].shape}"
            )
        found[f"input {i}"] = inputs[i], of[i]
    return found


def _relative(a: float, b: float, floor: float) -> float:
    return abs(a - b) / max(abs(a), abs(b), floor)


def _nan_first(error: float) -> float:
    return math.inf if math.isnan(error) else error


def _as_double(x: Any) -> Any:
    if isinstance(x, np.ndarray) and np.issubdtype(x.dtype, np.floating):
        return x.astype(np.float64)
    return x


def _is_double(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype == np.float64
