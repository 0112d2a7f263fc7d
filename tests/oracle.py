"""The oracle: the checks that every kernel of every op must pass.

The numpy reference in float64 is compared with finite differences and PyTorch, every native kernel
in float32 with the reference. A kernel's arguments carry their directions, and
the oracle reads them: it poisons outputs with NaN, prefills accumulators, freezes inputs, and puts
every array between canaries, aligned or not.

The tolerance is calibrated: the error of a kernel may be a few times that of the reference run in
float32 on the same inputs, or a few times the change of the exact result when its inputs are
rounded.

An op is described once, by an `Op` (kernel_case.py); ops/suite.py turns it into tests, and
test_oracle.py plants bugs in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.kernel_case import (
    Arrays,
    Memory,
    Op,
    Rejected,
    Sample,
    accumulators,
    bare_reference,
    directions,
    generator,
    run,
    upstream,
)

EPS = float(np.finfo(np.float32).eps)
CALIBRATION = 4.0  # a kernel's error may be this many times that of the reference in float32
DIFFERENCES = 1e-6
TORCH = 1e-9


def _is_float(array: Any) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.kind == "f"


def _single(arrays: Arrays) -> Arrays:
    """Rounded to float32: what every precision is then given."""
    return {n: a.astype(np.float32) if _is_float(a) else a for n, a in arrays.items()}


@dataclass(frozen=True)
class Stage:
    """One kernel of a sample, with everything it is called with."""

    kernel: str
    env: Arrays
    shapes: dict[str, tuple[int, ...]]


def stages(op: Op, sample: Sample, exact: Any) -> Iterator[Stage]:
    """The forward and the backward kernel; what is saved comes from `exact`, rounded to float32."""
    shapes = op.result_shapes(sample)
    env = {**sample.arrays, **sample.options}
    given = {**upstream(op, sample), **accumulators(op, sample)}
    if op.backward is None:
        yield Stage(op.forward, {**env, **given}, shapes)
        return
    yield Stage(op.forward, env, shapes)
    saved = op.saved(_single(run(exact, op.forward, env, shapes, np.float64)))
    yield Stage(op.backward, {**env, **saved, **given}, shapes)


# --- The checks --------------------------------------------------------------------------------


def _gradients(op: Op, sample: Sample, kernels: Any, arrays: Arrays, given: Arrays) -> Arrays:
    """{input: its gradient} in float64, without what it was added to."""
    shapes = op.result_shapes(sample)
    into = accumulators(op, sample)
    env = {**arrays, **sample.options}
    if op.backward is not None:
        env.update(op.saved(run(kernels, op.forward, env, shapes, np.float64)))
    assert op.derives is not None
    results = run(kernels, op.derives, {**env, **given, **into}, shapes, np.float64)
    kinds = {name: direction for name, direction, _ in directions(op.derives)}
    found: Arrays = {}
    for name, gradient in op.gradients.items():
        if arrays.get(name) is None or gradient in sample.frozen:
            continue
        value = results[gradient] if gradient in results else given[gradient]
        if kinds.get(gradient) == "Acc":
            value = value - into[gradient]
        if (extra := arrays.get(op.plus.get(gradient, ""))) is not None:
            value = value - extra
        found[name] = value
    return found


def _double(arrays: Arrays) -> Arrays:
    return {n: a.astype(np.float64) if _is_float(a) else a for n, a in arrays.items()}


def check_differences(op: Op, sample: Sample, kernels: Any, step: float = 1e-5) -> None:
    """Each gradient, along random directions, against central differences of <results, upstream>.

    The error is measured against the length of the gradient: the standard deviation of the exact
    derivative over random directions.
    """
    arrays, given = _double(sample.arrays), _double(upstream(op, sample))
    rng = generator(op.name, sample.label, "directions")

    apart = set(op.gradients.values()) - op.gradients.keys()  # a gradient in place is not optional
    unasked = {} if op.backward else {**given, **dict.fromkeys(apart)}

    def value(moved: Arrays) -> float:
        env = {**moved, **sample.options, **unasked}
        results = run(kernels, op.forward, env, op.result_shapes(sample), np.float64)
        return sum(
            float(np.vdot(results[y], given[dy])) for y, dy in op.upstream.items() if dy in given
        )

    for name, gradient in _gradients(op, sample, kernels, arrays, given).items():
        for _ in range(2):
            way = rng.standard_normal(arrays[name].shape)
            ahead = value({**arrays, name: arrays[name] + step * way})
            behind = value({**arrays, name: arrays[name] - step * way})
            numeric, exact = (ahead - behind) / (2 * step), float(np.vdot(gradient, way))
            size = max(abs(numeric), float(np.linalg.norm(gradient)), 1e-3)
            error = abs(numeric - exact) / size
            if not error <= DIFFERENCES:
                raise Rejected(
                    f"{op.name}[{sample.label}]: the gradient of {name} is off by {error:.1e}: "
                    f"{exact:.9g} instead of {numeric:.9g}"
                )


def check_torch(op: Op, sample: Sample, kernels: Any) -> None:
    """Results and gradients against PyTorch in float64."""
    import torch

    assert op.torch is not None
    arrays, given = _double(sample.arrays), _double(upstream(op, sample))
    tensors = {n: None if a is None else torch.from_numpy(a.copy()) for n, a in arrays.items()}
    for name in op.gradients:
        if tensors.get(name) is not None:
            tensors[name].requires_grad_()  # type: ignore[union-attr]
    theirs = op.torch(SimpleNamespace(**tensors), sample.options)
    env = {**arrays, **sample.options}
    if op.backward is None:
        env.update({**given, **accumulators(op, sample)})
    results = run(kernels, op.forward, env, op.result_shapes(sample), np.float64)
    pairs = [(n, results[n], t) for n, t in theirs.items()]
    if op.derives is not None:
        inputs = [n for n in op.gradients if tensors.get(n) is not None]
        outputs = [y for y in op.upstream if y in theirs and theirs[y].requires_grad]
        found = torch.autograd.grad(
            [theirs[y] for y in outputs],
            [tensors[n] for n in inputs],  # type: ignore[arg-type]
            [torch.as_tensor(given[op.upstream[y]], dtype=torch.float64) for y in outputs],
            allow_unused=True,
            materialize_grads=True,
        )
        ours = _gradients(op, sample, kernels, arrays, given)
        pairs += [
            (op.gradients[n], ours[n], t) for n, t in zip(inputs, found, strict=True) if n in ours
        ]
    inputs_size = max(
        (np.abs(a[np.isfinite(a)]).max(initial=1) for a in arrays.values() if _is_float(a)),
        default=1,
    )
    for name, mine, theirs_ in pairs:
        other = theirs_.detach().numpy()
        # A gradient may be exactly 0: then it is measured against what it was computed from.
        size = np.abs(other[np.isfinite(other)]).max(initial=1e-3 * inputs_size)
        _compare(f"{op.name}[{sample.label}] against PyTorch", name, mine, other, TORCH * size)


def _compare(where: str, name: str, got: Any, exact: Any, allowed: float) -> None:
    got, exact = np.asarray(got, np.float64), np.asarray(exact, np.float64)
    if got.shape != exact.shape:
        raise Rejected(f"{where}: {name} has shape {got.shape} instead of {exact.shape}")
    finite = np.isfinite(exact)
    with np.errstate(invalid="ignore"):
        error = np.where(finite, np.abs(got - np.where(finite, exact, 0)), 0)
    wrong = ~(error <= allowed)
    wrong |= ~finite & ~((got == exact) | (np.isnan(got) & np.isnan(exact)))
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise Rejected(
            f"{where}: {int(wrong.sum())} of {wrong.size} elements of {name} are wrong, the first "
            f"at {at}: {got[at]:.9g} instead of {exact[at]:.9g}, allowed error {allowed:.1e}"
        )


def _error(a: Arrays, exact: Arrays, name: str) -> float:
    with np.errstate(invalid="ignore"):
        difference = np.abs(np.asarray(a[name], np.float64) - exact[name])
    return float(np.max(difference[np.isfinite(difference)], initial=0.0))


def _rounded_inputs(env: Arrays, rng: np.random.Generator) -> Arrays:
    """Every float input moved by half a unit in its last place of float32, up or down."""
    return {
        n: np.asarray(a * (1 + EPS / 2 * rng.choice((-1, 1), a.shape))) if _is_float(a) else a
        for n, a in env.items()
    }


def check_native(op: Op, sample: Sample, kernels: Any, shift: int = 0) -> None:
    """Every result of `kernels` in float32 against the reference in float64 on the same inputs."""
    reference = bare_reference()
    rng = generator(op.name, sample.label, "rounding")
    for stage in stages(op, sample, reference):
        exact = run(reference, stage.kernel, stage.env, stage.shapes, np.float64)
        rough = run(reference, stage.kernel, stage.env, stage.shapes, np.float32)
        moved = [
            run(reference, stage.kernel, _rounded_inputs(stage.env, rng), stage.shapes, np.float64)
            for _ in range(3)
        ]
        memory = Memory(shift, sample.layout)
        got = run(kernels, stage.kernel, stage.env, stage.shapes, np.float32, memory)
        for name in exact.keys() - op.scratch:
            size = np.max(np.abs(exact[name][np.isfinite(exact[name])]), initial=0.0)
            unsure = max(_error(a, exact, name) for a in (rough, *moved))
            allowed = CALIBRATION * (unsure + EPS * float(size)) + sample.slack * float(size)
            where = f"{stage.kernel}[{sample.label}]"
            _compare(where, name, got[name], exact[name], allowed)


def check_same_bits(
    op: Op, sample: Sample, kernels: Any, set_num_threads: Callable[[int], None]
) -> None:
    """The same bits for any number of threads, and from run to run."""
    for stage in stages(op, sample, bare_reference()):
        first: Arrays | None = None
        for threads in (1, 2, 3, 7, 7, 1):
            set_num_threads(threads)
            got = run(kernels, stage.kernel, stage.env, stage.shapes, np.float32)
            first = first or got
            for name in got.keys() - op.scratch:
                if got[name].tobytes() != first[name].tobytes():
                    raise Rejected(f"{stage.kernel}: {name} changes with {threads} threads")


def check_in_place(op: Op, sample: Sample, kernels: Any) -> None:
    """Where a result may be an input, passing one array gives the bits that two arrays give."""
    for stage in stages(op, sample, bare_reference()):
        for kernel, result, source in op.in_place:
            if kernel != stage.kernel or stage.env.get(source) is None:
                continue
            if result not in stage.shapes:
                continue
            apart = run(kernels, kernel, stage.env, stage.shapes, np.float32)
            one = run(kernels, kernel, stage.env, stage.shapes, np.float32, same=(result, source))
            for name in apart.keys() - op.scratch:
                if one[name].tobytes() != apart[name].tobytes():
                    raise Rejected(f"{kernel}: {name} changes when {result} is {source}")


def check_rows(op: Op, sample: Sample, kernels: Any) -> None:
    """A NaN in one row of an input reaches that row of the results and leaves the others alone."""
    reference = bare_reference()
    for stage in stages(op, sample, reference):
        if stage.kernel not in op.rows:
            continue
        source, results = op.rows[stage.kernel]
        if stage.env[source] is None or stage.env[source].size == 0 or stage.env[source].ndim < 2:
            continue
        poisoned = stage.env[source].copy()
        row = tuple(n // 2 for n in poisoned.shape[:-1])
        poisoned[(*row, poisoned.shape[-1] // 2)] = np.nan
        env = {**stage.env, source: poisoned}
        clean = run(kernels, stage.kernel, stage.env, stage.shapes, np.float32)
        got = run(kernels, stage.kernel, env, stage.shapes, np.float32)
        expected = run(reference, stage.kernel, env, stage.shapes, np.float32)
        for name in got.keys() & set(results):
            # What is masked does not spread at all: the reference knows.
            if np.isnan(expected[name][row]).any() and not np.isnan(got[name][row]).any():
                raise Rejected(f"{stage.kernel}: a NaN in row {row} of {source} misses {name}")
            got[name][row] = clean[name][row] = 0
            if got[name].tobytes() != clean[name].tobytes():
                raise Rejected(f"{stage.kernel}: a NaN in row {row} of {source} spreads in {name}")
