"""Checks of kernels on bfloat16 arrays.

The reference gets the same rounded inputs in float64. A result kept in bfloat16 cannot be nearer to
it than its own rounding, so a kernel may err twice as much as rounding the exact result does, plus
what the oracle allows in float32. For a kernel that rounds intermediate results to bfloat16, twice
the change of its results when its inputs are rounded again is added.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from byhand import backend
from tests.kernel_case import (
    Arrays,
    Op,
    Sample,
    arranged,
    bare_reference,
    directions,
    generator,
    run,
)
from tests.oracle import CALIBRATION, EPS, Rejected, stages


def storage(kernel: str, name: str) -> Any:
    """The dtype of an argument where the call is in bfloat16, from its annotation: statistics,
    losses, moments and the gradients of parameters stay float32.
    """
    single = any(a.name == name and a.dtype == np.float32 for a in backend.arguments(kernel))
    return np.dtype(np.float32) if single else backend.bfloat16()


def rounded(kernel: str, name: str, array: Any) -> Any:
    if isinstance(array, np.ndarray) and array.dtype.kind == "f":
        return array.astype(storage(kernel, name)).astype(np.float64)
    return array


def _strided(array: Any, layout: str) -> Any:
    """A copy of the array in this layout."""
    base, view = arranged(layout, array.shape)
    copy = view(np.zeros(base, array.dtype))
    copy[...] = array
    return copy


def call(
    kernels: Any,
    kernel: str,
    env: Arrays,
    shapes: dict[str, tuple[int, ...]],
    layout: str = "contiguous",
) -> Arrays:
    """Calls a kernel with bfloat16 arrays, results poisoned -> {result: array in float64}."""
    arguments, results = [], {}
    for name, direction, _ in directions(kernel):
        value = env.get(name)
        if direction in ("Out", "StridedOut"):
            asked = name in shapes and (name not in env or value is not None)
            value = np.full(shapes[name], np.nan, storage(kernel, name)) if asked else None
        elif isinstance(value, np.ndarray) and value.dtype.kind == "f":
            value = value.astype(storage(kernel, name))
        elif direction == "StridedIn" and value is not None:
            value = np.broadcast_to(value, shapes[name])
        elif direction == "Mut" and value is not None:
            value = value.copy()
        if direction.startswith("Strided") and value is not None and value.dtype != bool:
            value = _strided(value, layout)
        if direction in ("Out", "StridedOut", "Acc", "Mut") and value is not None:
            results[name] = value
        arguments.append(value)
    getattr(kernels, kernel)(*arguments)
    return {name: np.asarray(array, np.float64) for name, array in results.items()}


def _results(
    op: Op, kernel: str, env: Arrays, got: Arrays, shapes: dict[str, tuple[int, ...]], dtype: Any
) -> Arrays:
    """The reference's results. A residual sum is rounded when it is stored, and the other results
    are computed from the stored one: the kernel's own.
    """
    exact = run(bare_reference(), kernel, env, shapes, dtype)
    for argument, result in op.stands_for.items():
        if result in got:
            kept = {**env, argument: got[result], "add": np.zeros_like(got[result])}
            exact = {**run(bare_reference(), kernel, kept, shapes, dtype), result: exact[result]}
    return exact


def allowance(truth: Any, single: Any, dtype: Any) -> float:
    """How far a result kept in `dtype` may be from the truth: twice as far as its own rounding, and
    a few times as far as the reference in float32, `single`, on top.
    """
    finite = np.isfinite(truth)
    with np.errstate(invalid="ignore", over="ignore"):
        rounding = np.abs(np.asarray(truth.astype(dtype), np.float64) - truth)
        rough = np.abs(np.asarray(single, np.float64) - truth)
    size = np.max(np.abs(truth[finite]), initial=0.0)
    allowed = 2 * np.max(rounding[finite], initial=0.0)
    return float(allowed + CALIBRATION * (np.max(rough[finite], initial=0.0) + EPS * size))


def _moved(op: Op, kernel: str, env: Arrays, shapes: dict[str, tuple[int, ...]]) -> list[Arrays]:
    """The results when every bfloat16 input is half a unit in the last place larger or smaller: the
    effect of one rounding of an intermediate result.
    """
    rng = generator(op.name, kernel, "rounding")
    if "bf16" in env:
        env = {**env, "bf16": False}  # the reference would round the difference away
    runs = []
    for _ in range(3):
        near = {
            name: a * (1 + 2.0**-9 * rng.choice((-1, 1), a.shape))
            if _is_half(kernel, name, a)
            else a
            for name, a in env.items()
        }
        runs.append(run(bare_reference(), kernel, near, shapes, np.float64))
    return runs


def _is_half(kernel: str, name: str, array: Any) -> bool:
    is_float = isinstance(array, np.ndarray) and array.dtype.kind == "f"
    return is_float and storage(kernel, name) != np.float32


def check(op: Op, sample: Sample, kernels: Any) -> None:
    reference = bare_reference()
    for stage in stages(op, sample, reference):
        env = {name: rounded(stage.kernel, name, value) for name, value in stage.env.items()}
        got = call(kernels, stage.kernel, env, stage.shapes, sample.layout)
        exact, single = (
            _results(op, stage.kernel, env, got, stage.shapes, dtype)
            for dtype in (np.float64, np.float32)
        )
        moved = []
        if op.cuda.rounds:
            moved = _moved(op, stage.kernel, env, stage.shapes)
        for name in exact.keys() - op.scratch:
            truth = exact[name]
            finite = np.isfinite(truth)
            allowed = allowance(truth, single[name], storage(stage.kernel, name))
            with np.errstate(invalid="ignore"):
                farthest = [np.abs(other[name] - truth)[finite] for other in moved]
            allowed += 2 * max((np.max(f, initial=0.0) for f in farthest), default=0.0)
            allowed += sample.slack * np.max(np.abs(truth[finite]), initial=0.0)
            with np.errstate(invalid="ignore"):
                error = np.abs(got[name] - truth)
            wrong = finite & ~(error <= allowed)
            wrong |= ~finite & ~((got[name] == truth) | (np.isnan(got[name]) & np.isnan(truth)))
            if wrong.any():
                at = tuple(int(i) for i in np.argwhere(wrong)[0])
                raise Rejected(
                    f"{stage.kernel}[{sample.label}] in bfloat16: {int(wrong.sum())} of "
                    f"{wrong.size} elements of {name} are wrong, the first at {at}: "
                    f"{got[name][at]:.6g} instead of {truth[at]:.6g}, allowed error {allowed:.1e}"
                )
