"""The cases of the benchmark of the ops on a CPU: a case is one computation by several libraries.

A module of bench/ops lists its cases as `CPU`, a list of specs, and as `TINY` those on arrays so
small that only the cost of the call is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from bench import traffic
from bench.lazy import torch
from byhand._host import empty

Run = Callable[[], Any]

RNG = np.random.default_rng(0)

# Rows R = batch * context and columns C = width of an op's arrays in a training step of each
# preset, and of one array of 100 MB, which no cache holds.
PRESET_ROWS = {"tiny": (768, 128), "guide": (4096, 384), "baby": (16384, 384), "gpt2": (256, 768)}
ROWS = [*PRESET_ROWS.values(), (32768, 768)]
PARAMETERS = {"tiny": 816_640, "guide": 10_690_944, "gpt2": 124_439_808}


@dataclass
class Case:
    """One thing to compute, by byhand and by others, and how much there is to compute or to move.

    ``flops`` counts the operations of what is bound by arithmetic, ``bytes`` the traffic of what is
    bound by memory, both by the TRAFFIC line of the kernel's contract; one of them is 0. ``stream``
    is the kind of the traffic, one of byhand.roofline.STREAMS: a copy writes another array than it
    reads, a triad reads two, an update writes what it has read.
    """

    name: str
    byhand: Run
    rivals: dict[str, Run]
    flops: float = 0.0
    bytes: float = 0.0
    stream: str = "copy"
    bf16: bool = False


def cost(kernel: str, sizes: dict[str, int], given: Iterable[str] = ()) -> dict[str, float]:
    """`flops` or `bytes` of a case that is one call of a float32 kernel. given: the optional
    arguments and flags of the call that change its count.
    """
    present = dict.fromkeys(given, True)
    if traffic.counts_operations(kernel):
        return {"flops": float(traffic.operations(kernel, sizes, present))}
    return {"bytes": float(traffic.bytes_moved(kernel, sizes, present))}


@dataclass
class Spec:
    """Cases that share their arrays, and the names they will have; `build` makes them. They are
    made one spec at a time, because all arrays at once would not fit into memory.
    """

    name: str
    build: Callable[[], list[Case]]
    parts: tuple[str, ...] = ("forward", "backward")

    @property
    def names(self) -> list[str]:
        return [f"{self.name} {part}".rstrip() for part in self.parts]


@dataclass
class Twin:
    """PyTorch's version of an op: a function, and the tensors it is applied to and differentiated
    for.
    """

    function: Callable[..., Any]
    leaves: Sequence[Any]

    def runs(self, dy: np.ndarray) -> tuple[Run, Run]:
        """What to time: the forward pass alone, which records nothing, and the backward pass."""
        y = self.function(*self.leaves)
        upstream = torch.from_numpy(dy).to(y.dtype)

        def backward() -> None:
            torch.autograd.grad(y, self.leaves, upstream, retain_graph=True)

        return partial(self.function, *(leaf.detach() for leaf in self.leaves)), backward


def twin(function: Callable[..., Any], *arrays: np.ndarray) -> Twin:
    """The twin that computes `function` of tensors with the values of `arrays`."""
    return Twin(function, [leaf(a) for a in arrays])


def twins_in(bf16: bool, function: Callable[..., Any], *arrays: np.ndarray) -> dict[str, Twin]:
    """PyTorch's contestants in one precision.

    In bfloat16 there are two: autocast, which starts from float32 arrays and converts what it
    multiplies, as byhand does; and arrays that are bfloat16 already, as the layer before leaves
    them under autocast.
    """
    if not bf16:
        return {"torch": twin(function, *arrays)}

    def cast(*leaves: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return function(*leaves)

    halves = [leaf(a, "bfloat16") for a in arrays]
    return {"torch": twin(cast, *arrays), "torch, bf16 arrays": Twin(function, halves)}


@dataclass
class Pair:
    """An op in both directions: `cases` turns it into two cases.

    op: the kernels are op_forward and op_backward. sizes: the letters of their contract. given: see
    `cost`. others: contestants beside the twins, forward and backward; one of the name of a twin
    takes its place.
    """

    op: str
    sizes: dict[str, int]
    forward: Callable[[], tuple[Any, Any]]  # -> y, saved
    backward: Callable[[Any], Any]  # of saved
    twins: dict[str, Twin]
    dy: np.ndarray
    streams: tuple[str, str] = ("copy", "triad")
    bf16: bool = False
    given: tuple[str, ...] = ()
    others: tuple[dict[str, Run], dict[str, Run]] = field(default_factory=lambda: ({}, {}))

    def cases(self, name: str) -> list[Case]:
        saved = self.forward()[1]
        pairs = {who: twin.runs(self.dy) for who, twin in self.twins.items()}
        calls = (self.forward, lambda: self.backward(saved))
        return [
            Case(
                f"{name} {way}",
                calls[i],
                {who: runs[i] for who, runs in pairs.items()} | self.others[i],
                **cost(f"{self.op}_{way}", self.sizes, self.given),
                stream=self.streams[i],
                bf16=self.bf16,
            )
            for i, way in enumerate(("forward", "backward"))
        ]


def spec(name: str, make: Callable[..., Pair], *sizes: Any) -> Spec:
    """The two cases of the pair that `make` makes for these sizes."""
    return Spec(name, lambda: make(*sizes).cases(name))


def single(name: str, make: Callable[..., Case], *sizes: Any) -> Spec:
    """The one case that `make` makes, given its name and these sizes."""
    return Spec(name, lambda: [make(name, *sizes)], parts=("",))


def floats(*shape: int) -> np.ndarray:
    """Normal numbers, aligned to 64 bytes as both libraries align their own arrays."""
    array = empty(shape, np.dtype(np.float32))
    RNG.standard_normal(dtype=np.float32, out=array)
    return array


def zeros(like: np.ndarray) -> np.ndarray:
    """Zeros, aligned in the same way."""
    array = empty(like.shape, np.dtype(np.float32))
    array[...] = 0
    return array


def leaf(x: np.ndarray, dtype: str = "float32") -> Any:
    """A tensor with the values of x, whose gradient is asked for."""
    return torch.from_numpy(x).to(getattr(torch, dtype)).requires_grad_(True)
