"""The tests that every op goes through. A test file names its op and inherits them:

class TestLayerNorm(OpSuite):
    op = OP
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest

from byhand import backend
from byhand.ops.declare import Declaration, Shape
from tests import oracle
from tests.kernel_case import (
    Call,
    Error,
    Op,
    Sample,
    accumulators,
    bare_reference,
    directions,
    run,
    upstream,
)


def native_kernels(name: str) -> Any:
    return backend.reference if name == "reference" else backend.cpu_modules()[name]


def arguments(op: Op, kernel: str, dtype_of: Callable[[str], Any]) -> list[Any]:
    """Right arguments of a kernel, from the first sample that gives them all and freezes none.
    dtype_of: the dtype of each floating array, by its name.
    """
    sample = next(s for s in op.samples if not s.frozen and _all_given(s, kernel))
    (stage,) = (s for s in oracle.stages(op, sample, bare_reference()) if s.kernel == kernel)
    found = []
    for name, direction, _ in directions(kernel):
        value = stage.env.get(name)
        if direction in ("Out", "StridedOut"):
            value = np.zeros(stage.shapes[name], dtype_of(name))
        elif direction and value is not None:
            value = np.asarray(value)
            value = value.astype(dtype_of(name) if value.dtype.kind == "f" else value.dtype)
            if name in stage.shapes and direction == "StridedIn":
                value = np.broadcast_to(value, stage.shapes[name])
        found.append(value)
    return found


def _all_given(sample: Sample, kernel: str) -> bool:
    named = {n for n, d, _ in directions(kernel) if d in ("In", "StridedIn", "Mut")}
    return all(a is not None for n, a in sample.arrays.items()) and all(
        a.size > 3 for n, a in sample.arrays.items() if n in named and a is not None and a.ndim
    )


# --- Wrong shapes, from what the public functions declare ---------------------------------------


@dataclass(frozen=True)
class Refused:
    """A call of a public function with one wrong argument. expected: as the error shows it. others:
    the arguments that gave the sizes which it does not fit.
    """

    declared: Declaration
    name: str
    value: Any
    expected: str = ""
    others: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        shape = getattr(self.value, "shape", None)
        return f"{self.declared.name}-{self.name}-{shape or type(self.value).__name__}"


def module_of(op: Op) -> ModuleType:
    """The module of byhand.ops that has the op's reference and its public functions."""
    kernel = inspect.unwrap(getattr(backend.reference, op.forward))
    return importlib.import_module(kernel.__module__)


def declarations(module: ModuleType) -> list[Declaration]:
    """What the public functions of an op declare."""
    mine = (f for f in vars(module).values() if getattr(f, "__module__", "") == module.__name__)
    return [f.declared for f in mine if hasattr(f, "declared")]


def right_shapes(declared: Declaration) -> dict[str, tuple[int, ...]]:
    """A shape for each argument and each saved entry, every dimension with a size of its own."""
    everything = {**declared.saved, **declared.shapes}
    names = {d: None for s in everything.values() for d in s.dimensions if isinstance(d, str)}
    sizes: dict[Any, int] = {name: 5 + i for i, name in enumerate(names)}
    return {
        name: (2, 3) * shape.leading + tuple(sizes.get(d, d) for d in shape.dimensions)
        for name, shape in everything.items()
    }


def refused_calls(op: Op) -> list[Refused]:
    """Every array argument with too few and too many dimensions, with each size that another
    argument has given off by one, and as something that is not an array.
    """
    found = []
    for declared in declarations(module_of(op)):
        right = right_shapes(declared)
        gave = {size: "" for shape in declared.saved.values() for size in shape.names}
        for name, shape in declared.shapes.items():
            sizes = dict(zip(shape.dimensions, right[name][-len(shape.dimensions) :], strict=False))
            sizes = {d: n for d, n in sizes.items() if d in gave}
            if "..." in gave:
                sizes["..."] = (2, 3)
            expected = "" if shape.free else shape.with_sizes(sizes)
            others = tuple(dict.fromkeys(gave[d] for d in shape.names if gave.get(d)))
            for wrong in _wrong_shapes(shape, right[name], gave):
                found.append(Refused(declared, name, np.ones(wrong), expected, others))
            found.append(Refused(declared, name, [1.0]))
            if not shape.optional:
                found.append(Refused(declared, name, None))
            for dimension in shape.names:
                gave.setdefault(dimension, name)
    return found


def _wrong_shapes(shape: Shape, right: tuple[int, ...], known: Container[Any]) -> Iterator[Any]:
    if shape.free:
        return
    if shape.leading and "..." not in known:
        if shape.dimensions:
            yield right[3:]  # a dimension less than those that have names
    else:
        yield (4, *right)
        if right:
            yield right[1:]
    for i in range(len(right)):
        at = i - len(right) + len(shape.dimensions)
        dimension = shape.dimensions[at] if at >= 0 else "..."
        if dimension in known or isinstance(dimension, int):
            yield (*right[:i], right[i] + 1, *right[i + 1 :])


def call_with(declared: Declaration, given: dict[str, Any], body: Callable[..., Any]) -> Any:
    """Calls the compiled check in front of `body`; arguments without a shape are None."""
    right = right_shapes(declared)
    arguments: dict[str, Any] = {
        p.name: np.ones(right[p.name]) if p.name in declared.shapes else None
        for p in declared.parameters
    }
    if declared.saved:
        arguments["saved"] = tuple(
            right[n] if s.itself else np.ones(right[n]) for n, s in declared.saved.items()
        )
    return declared.compiled(body)(**{**arguments, **given})


class OpSuite:
    op: ClassVar[Op]

    @pytest.fixture
    def threads(self) -> Iterator[None]:
        before = backend.get_num_threads()
        yield
        backend.set_num_threads(before)

    def test_finite_differences(self, sample: Sample) -> None:
        oracle.check_differences(self.op, sample, bare_reference())

    def test_pytorch(self, sample: Sample) -> None:
        pytest.importorskip("torch")
        oracle.check_torch(self.op, sample, bare_reference())

    @pytest.mark.parametrize("shift", [0, 1], ids=["aligned", "unaligned"])
    def test_native(self, sample: Sample, native: str, shift: int) -> None:
        oracle.check_native(self.op, sample, native_kernels(native), shift)

    def test_same_bits(self, native: str, threads: None) -> None:
        for sample in (self.op.big, self.op.samples[-1]):
            if sample is not None:
                oracle.check_same_bits(
                    self.op, sample, native_kernels(native), backend.set_num_threads
                )

    def test_big(self, native: str) -> None:
        if self.op.big is not None:
            oracle.check_native(self.op, self.op.big, native_kernels(native))

    def test_in_place(self, native: str) -> None:
        for sample in self.op.samples:
            oracle.check_in_place(self.op, sample, native_kernels(native))

    def test_a_nan_stays_in_its_row(self, native: str) -> None:
        for sample in self.op.samples:
            oracle.check_rows(self.op, sample, native_kernels(native))

    # --- Public functions ----------------------------------------------------------------------

    def _call_public_functions(self, sample: Sample, dtype: Any) -> None:
        """They give the bits of the kernels they call, and leave their inputs alone."""

        def cast(arrays: dict[str, Any]) -> dict[str, Any]:
            found = {}
            for name, array in arrays.items():
                if isinstance(array, np.ndarray):
                    array = array.astype(dtype) if array.dtype.kind == "f" else array.copy()
                found[name] = array
            return found

        op = self.op
        assert op.public is not None
        arrays, given = cast(sample.arrays), cast(upstream(op, sample))
        into, expected_into = (cast(accumulators(op, sample)) for _ in range(2))
        kernels = backend.kernels(np.empty(0, dtype))
        env = {**cast(sample.arrays), **sample.options}
        if op.backward is None:
            env.update({**given, **expected_into})
        shapes = op.result_shapes(sample)
        expected = run(kernels, op.forward, env, shapes, dtype)
        if op.backward is not None:
            env.update({**op.saved(expected), **given, **expected_into})
            expected = {**expected, **run(kernels, op.backward, env, shapes, dtype)}
        mutable = {n for k in op.kernels for n, d, _ in directions(k) if d == "Mut"}
        for name, array in {**arrays, **given}.items():
            if isinstance(array, np.ndarray) and name not in mutable:
                array.flags.writeable = False
        got = op.public(Call(arrays, sample.options, given, into))
        for name, array in got.items():
            assert array.dtype == dtype, name
            assert array.shape == expected[name].shape, name
            assert array.tobytes() == expected[name].tobytes(), name
        for name, array in into.items():
            if array is not None:
                assert array.tobytes() == expected[name].tobytes(), name

    def test_public_functions(self, sample: Sample) -> None:
        self._call_public_functions(sample, np.float64)

    def test_native_public_functions(self, sample: Sample, native: str) -> None:
        with backend.use_cpu(native):
            self._call_public_functions(sample, np.float32)

    def test_error(self, error: Error) -> None:
        with pytest.raises(error.exception, match=re.escape(error.message)) as caught:
            error.call()
        assert "\n" not in str(caught.value)

    def test_a_wrong_argument_is_refused_by_name(self, refused: Refused) -> None:
        """Before the function is entered, whatever its other arguments hold."""
        declared, name = refused.declared, refused.name
        where = f"^{re.escape(declared.name)}: {name} must"
        if hasattr(refused.value, "shape"):
            right = right_shapes(declared)
            fits = " and ".join(f"{other} has shape {right[other]}" for other in refused.others)
            shapes = re.escape(f"{refused.expected}, got {refused.value.shape}")
            shapes += re.escape(f", where {fits}" if fits else "")
            error = pytest.raises(ValueError, match=f"{where} have shape {shapes}$")
        else:
            error = pytest.raises(TypeError, match=f"{where} be an array, got \\w+$")
        with error:
            call_with(declared, {name: refused.value}, pytest.fail)

    def test_what_is_declared_is_accepted(self) -> None:
        for declared in declarations(module_of(self.op)):
            optional = [name for name, shape in declared.shapes.items() if shape.optional]
            for absent in ([], *([name] for name in optional), optional):
                assert (
                    call_with(declared, dict.fromkeys(absent), lambda *a, **k: "called") == "called"
                )

    # --- Representation ----------------------------------------------------------------------

    def test_representation_is_checked(self, kernel: str, backend_name: str) -> None:
        """Each argument, wrong in each way, is refused by kernel and argument name."""
        dtype = np.float64 if backend_name == "reference" else np.float32
        other = np.float32 if backend_name == "reference" else np.float64
        function = getattr(native_kernels(backend_name), kernel)
        good = arguments(self.op, kernel, lambda name: dtype)
        function(*good)
        for i, (name, direction, optional) in enumerate(directions(kernel)):
            value = good[i]
            if not direction:
                continue
            assert value is not None, name
            wrong: list[Any] = [value.tolist(), 1.0, "text", value.astype(object)]
            wrong.append(value.astype(np.complex64))
            if value.dtype.kind == "f":
                with np.errstate(invalid="ignore"):
                    wrong += [value.astype(t) for t in (other, np.float16, np.int32)]
                wrong.append(value.astype(value.dtype.newbyteorder(">")))
            if not direction.startswith("Strided") and value.ndim and value.size > 1:
                wrong.append(np.repeat(value, 2, axis=-1)[..., ::2])
                wrong.append(value[..., ::-1])
            if value.itemsize > 1 and value.size:
                odd = np.zeros(value.nbytes + 1, np.uint8)[1:].view(value.dtype)
                wrong.append(odd.reshape(value.shape))
            if direction in ("Out", "Acc", "Mut", "StridedOut"):
                frozen = value.copy()
                frozen.flags.writeable = False
                wrong.append(frozen)
            if not optional:
                wrong.append(None)
            for bad in wrong:
                with pytest.raises(TypeError, match=rf"^{kernel}: {re.escape(name)} "):
                    function(*good[:i], bad, *good[i + 1 :])
