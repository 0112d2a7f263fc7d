"""How an op is described to the oracle, and how one of its kernels is called.

Every array a kernel is given lies between canaries: results are poisoned with NaN, inputs are
frozen, accumulators hold what they held.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis.strategies import SearchStrategy

from byhand import backend
from tests.cuda.rules import Rule

Arrays = dict[str, Any]


class Rejected(AssertionError):
    """A kernel is wrong; the message says which result, by how much and for which sample."""


@dataclass(frozen=True)
class Sample:
    """One call: arrays in float32, int64 or bool (None where an argument is absent) and options.

    frozen: gradients that are not asked for (None is passed). smooth: whether finite differences
    make sense here. layout: how strided arguments lie in memory. slack: relative error granted on
    top, where a kernel rounds coarsely on the way: what is close to a tie may fall either way.
    """

    label: str
    arrays: Arrays
    options: Arrays = field(default_factory=dict)
    frozen: frozenset[str] = frozenset()
    smooth: bool = True
    layout: str = "contiguous"
    slack: float = 0.0

    @property
    def elements(self) -> int:
        """Of its largest array."""
        return max((a.size for a in self.arrays.values() if a is not None), default=0)


@dataclass(frozen=True)
class Error:
    """A call that must be refused with this exception, whose one sentence contains `message`."""

    exception: type[Exception]
    message: str
    call: Callable[[], object]


# Which checks must reject a planted bug.
EVERYWHERE = "differences torch native"
FORWARD = "torch native"  # a wrong forward pass may still be differentiated correctly
ROUNDING = "torch native"  # what is rounded has no finite differences
NUMERIC = "native"  # right in float64


@dataclass(frozen=True)
class Bug:
    """A bug planted in the reference of a kernel, or in a function that it calls (helper), by
    replacing text. caught_by: every check here must reject it.
    """

    what: str
    kernel: str
    old: str
    new: str
    helper: str | None = None
    caught_by: str = EVERYWHERE


@dataclass(frozen=True, kw_only=True)
class Cuda:
    """What is expected of an op's CUDA kernels.

    wide: the samples that only CUDA needs: rows longer than a block can hold, more rows than one
        wave of blocks.
    instructions: what their machine code must have.
    bf16: whether they take bfloat16 arrays. either: arguments that may be float32 or bfloat16,
        whatever the others are.
    rounds: whether they round to bfloat16 on the way too, to multiply in it.
    slack: relative error granted to bfloat16 results where nothing else accounts for `rounds`.
    inexact: kernels whose results on a GPU and on the CPU differ in their last bits: they use the
        hardware's exponentials or logarithms, or tensor cores, which add in an order and a
        precision of their own. All others give the same bits.
    """

    wide: Callable[[], Iterable[Sample]] = tuple
    instructions: tuple[Rule, ...] = ()
    bf16: bool = True
    either: tuple[str, ...] = ()
    rounds: bool = False
    slack: float = 0.0
    inexact: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Op:
    """What the tests need to know of an op.

    backward: None where nothing is differentiated, or where the forward kernel itself makes the
        gradients: then it takes the upstream ones too, as arrays or as numbers.
    shapes: the shapes of all results but gradients, and the full shape of a broadcast mask. A
        result that may be None is not asked for where it has no shape.
    upstream: differentiable result -> the argument that holds its gradient.
    gradients: differentiable input -> the argument that receives its gradient; the input itself
        where that is overwritten with it.
    plus: gradient -> the argument that is added to it. scratch: results that are workspace.
    stands_for: argument of the backward kernel -> the result passed for it, where there is one.
    torch: the same op in PyTorch, from tensors and options to {result: tensor}.
    public: the op through its public functions, from a `Call` to {result: array}.
    in_place: (kernel, result, input) that the contract allows to be one array.
    rows: kernel -> (input, results) such that a NaN in a row of the input stays in that row.
    errors: calls of the public functions that must be refused; wrong shapes are derived from what
        those declare.
    planted: bugs in its reference that the oracle must reject.
    drawn: more samples, of any shape, for hypothesis to draw.
    past_caches: whether its CPU kernels write results that the caches cannot hold past them.
    cuda: what is expected of its CUDA kernels.
    """

    name: str
    forward: str
    backward: str | None = None
    samples: tuple[Sample, ...]
    big: Sample | None = None
    shapes: Callable[[Sample], dict[str, tuple[int, ...]]]
    upstream: dict[str, str] = field(default_factory=dict)
    gradients: dict[str, str] = field(default_factory=dict)
    plus: dict[str, str] = field(default_factory=dict)
    stands_for: dict[str, str] = field(default_factory=dict)
    scratch: frozenset[str] = frozenset()
    torch: Callable[[Any, Arrays], Arrays] | None = None
    public: Callable[[Call], Arrays] | None = None
    in_place: tuple[tuple[str, str, str], ...] = ()
    rows: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    errors: tuple[Error, ...] = ()
    planted: tuple[Bug, ...] = ()
    drawn: SearchStrategy[Sample] | None = None
    past_caches: bool = False
    cuda: Cuda = Cuda()

    def result_shapes(self, sample: Sample) -> dict[str, tuple[int, ...]]:
        """The shapes of all results: a gradient has the shape of its input."""
        shapes = dict(self.shapes(sample))
        for name, gradient in self.gradients.items():
            if sample.arrays.get(name) is not None:
                shapes[gradient] = sample.arrays[name].shape
        return shapes

    def saved(self, results: Arrays) -> Arrays:
        """What the backward kernel finds of the forward kernel's results."""
        passed = {a: results[r] for a, r in self.stands_for.items() if r in results}
        return {**results, **passed}

    @property
    def derives(self) -> str | None:
        """The kernel that makes the gradients."""
        return self.backward or (self.forward if self.gradients else None)

    @property
    def kernels(self) -> tuple[str, ...]:
        return (self.forward,) if self.backward is None else (self.forward, self.backward)


@dataclass(frozen=True)
class Call:
    """What public functions are called with: a sample's arrays in one precision, the upstream
    gradients, and the accumulators its gradients are added into (None where frozen).
    """

    arrays: Arrays
    options: Arrays
    upstream: Arrays
    into: Arrays


def generator(*names: str) -> np.random.Generator:
    """Random numbers that depend on nothing but the names."""
    return np.random.default_rng(zlib.crc32("/".join(names).encode()))


def normal(rng: np.random.Generator, *shape: int) -> Any:
    """Normal numbers in float32; a 0-d array for no shape."""
    return np.asarray(rng.standard_normal(shape), np.float32)


def directions(kernel: str) -> list[tuple[str, str, bool]]:
    """(argument, direction or "" for a scalar, may be None) of a kernel, from its reference."""
    return [(a.name, a.direction, a.optional) for a in backend.arguments(kernel)]


def bare_reference() -> SimpleNamespace:
    """The bodies of the reference kernels without their checks: they run in any precision."""
    names = backend.reference.available
    return SimpleNamespace(**{n: getattr(backend.reference, n).__wrapped__ for n in names})


# --- Memory ------------------------------------------------------------------------------------

_GUARD = 256  # bytes before and after an array: four of the widest vectors


def _pattern(dtype: Any, what: str) -> Any:
    """NaN in two recognisable patterns; for ids a number no table has; for masks True."""
    if dtype == np.float32:
        return np.array([0x7FC0DEAD if what == "canary" else 0x7FC0FFEE], np.uint32).view(np.uint8)
    if dtype == np.float64:
        nan = 0x7FF8DEADDEADDEAD if what == "canary" else 0x7FF8C0FFEEC0FFEE
        return np.array([nan], np.uint64).view(np.uint8)
    if dtype == np.int64:
        return np.array([1 << 62], np.int64).view(np.uint8)
    return np.array([1], np.uint8)


def arranged(layout: str, shape: tuple[int, ...]) -> tuple[tuple[int, ...], Callable[[Any], Any]]:
    """(shape of the memory, the view of it that has `shape`) of an array in this layout."""
    if layout == "padded":
        columns = shape[-1]
        return (*shape[:-1], columns + 3), lambda whole: whole[..., :columns]
    if layout == "transposed" and len(shape) == 4:
        b, t, h, d = shape
        return (b, h, t, d), lambda whole: whole.transpose(0, 2, 1, 3)
    return shape, lambda whole: whole


class Memory:
    """Arrays between canaries. shift: how many elements past a 64-byte boundary they begin."""

    def __init__(self, shift: int = 0, layout: str = "contiguous"):
        self.shift = shift
        self.layout = layout
        self._blocks: list[tuple[str, Any, Any, Any | None, Callable[[Any], Any]]] = []

    def place(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: Any,
        content: Any = None,
        *,
        strided: bool = False,
        frozen: bool = False,
    ) -> Any:
        """An array of this shape that holds `content`, or poison when there is none."""
        dtype = np.dtype(dtype)
        base, view = arranged(self.layout if strided else "contiguous", shape)
        size = int(np.prod(base)) * dtype.itemsize
        block = np.empty(size + 2 * _GUARD + 128 + self.shift * 8, np.uint8)
        begin = -block.ctypes.data % 64 + self.shift * dtype.itemsize
        raw = block[begin : begin + size + 2 * _GUARD]

        def carve(memory: Any) -> Any:
            return view(memory[_GUARD : _GUARD + size].view(dtype).reshape(base))

        canary = _pattern(dtype, "canary").copy()
        if dtype.kind == "f":  # each array has its own: a copy of another's would not be seen
            canary[0] = len(self._blocks)
        raw.view(f"u{canary.size}")[...] = canary.view(f"u{canary.size}")
        array = carve(raw)
        array[...] = _pattern(dtype, "poison").view(dtype)[0] if content is None else content
        array.flags.writeable = not frozen
        self._blocks.append((name, raw, raw.copy(), None if frozen else array, carve))
        return array

    def check(self) -> None:
        """Raises Rejected when anything but the elements of a writable array has changed."""
        for name, raw, before, writable, carve in self._blocks:
            if writable is not None:
                carve(before)[...] = writable
            if not np.array_equal(raw, before):
                what = "the input" if writable is None else "the memory around"
                raise Rejected(f"{what} {name} was changed")


# --- Running a kernel --------------------------------------------------------------------------


def run(
    kernels: Any,
    kernel: str,
    env: Arrays,
    shapes: dict[str, tuple[int, ...]],
    dtype: Any,
    memory: Memory | None = None,
    same: tuple[str, str] | None = None,
) -> Arrays:
    """Calls one kernel on `env` in `dtype` -> {result: array}.

    An argument that is absent or None in env is None; results are poisoned, accumulators hold what
    env has for them. same: (result, input) to be passed as one array.
    """
    memory = memory or Memory()
    placed: Arrays = {}
    results: Arrays = {}
    for name, direction, _ in directions(kernel):
        value = env.get(name)
        if direction and value is not None:
            value = np.asarray(value)  # arithmetic turns a 0-d array into a scalar
        strided = direction.startswith("Strided")
        if not direction:
            placed[name] = env[name]
        elif direction in ("Out", "StridedOut"):
            # Absent from env: wanted, if it has a shape. There and None: frozen.
            asked = name in shapes and (name not in env or value is not None)
            placed[name] = (
                memory.place(name, shapes[name], dtype, strided=strided) if asked else None
            )
        elif value is None:
            placed[name] = None
        elif direction in ("Acc", "Mut"):
            kind = dtype if value.dtype.kind == "f" else value.dtype
            placed[name] = memory.place(name, value.shape, kind, value)
        else:
            floating = value.dtype.kind == "f"
            kind = dtype if floating else value.dtype
            array = memory.place(
                name, value.shape, kind, value, strided=strided and floating, frozen=True
            )
            if strided and not floating:
                array = np.broadcast_to(array, shapes[name])
            placed[name] = array
        if direction in ("Out", "StridedOut", "Acc", "Mut") and placed[name] is not None:
            results[name] = placed[name]
    if same is not None:
        result, source = same
        placed[result][...] = placed[source]
        placed[source] = placed[result]
    with np.errstate(all="ignore"):
        getattr(kernels, kernel)(*placed.values())
    memory.check()
    return {name: array.copy() for name, array in results.items()}


def upstream(op: Op, sample: Sample) -> Arrays:
    """A random gradient for every differentiable result: never ones, which many errors survive."""
    shapes = op.shapes(sample)
    rng = generator(op.name, sample.label, "upstream")
    given: Arrays = {dy: normal(rng, *shapes[y]) for y, dy in op.upstream.items() if y in shapes}
    numbers = {n for n, d, _ in directions(op.derives) if not d} if op.derives else set()
    return {dy: float(value) if dy in numbers else value for dy, value in given.items()}


def accumulators(op: Op, sample: Sample) -> Arrays:
    """What gradients are added to: random numbers, or None where frozen or without an input."""
    kinds = {n: d for n, d, _ in directions(op.derives)} if op.derives else {}
    wanted = {g for n, g in op.gradients.items() if sample.arrays.get(n) is not None}
    rng = generator(op.name, sample.label, "accumulators")
    found: Arrays = {}
    for name, gradient in op.gradients.items():
        array = sample.arrays.get(name)
        if gradient in op.upstream.values():
            continue  # what is added to the result: its gradient is the upstream one
        if gradient not in wanted or gradient in sample.frozen:
            found[gradient] = None
        elif kinds.get(gradient) == "Acc":
            found[gradient] = normal(rng, *array.shape)
    return found
