"""What bench.gpu times: calls of kernels on arrays made for them, and PyTorch's counterparts.

A file of bench/ops gives its calls as `GPU`, an instance of Calls. bench.instructions counts the
instructions of the same calls on a CPU.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from unittest import mock

import numpy as np

from bench import traffic
from bench.lazy import torch
from byhand import backend

F32 = "float32"
DTYPES = ("bfloat16", F32)
Rival = Callable[[], Callable[[], Any]]  # makes PyTorch's arrays -> what is to be timed

# Rows for checks: a warp per row, a block per row and several tiles per row, each with a number of
# columns that can be read 16 bytes at a time and with one that cannot.
SMALL_ROWS = [(6, cols) for cols in (96, 97, 3000, 3001, 20000, 20001)]
NORM_ROWS = [(65536, 768), (65536, 1024), (16384, 4096), (8192, 16384)]


@dataclass(frozen=True)
class Case:
    """Kernels called one after the other with these arguments, by name; absent ones are None.

    bytes: what the contract's TRAFFIC line says is moved. flops: of the products of matrices that
    the results need, where those take the time. gemm: cuBLASLt can make them. environment:
    variables that must be set while it runs: see `setting`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    calls: tuple[tuple[str, dict[str, Any]], ...] = field(repr=False)
    rival: Rival | None = field(default=None, repr=False)
    flops: int = 0
    gemm: bool = False
    environment: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name} {'x'.join(map(str, self.shape))} {self.dtype}"

    def setting(self) -> AbstractContextManager[Any]:
        """Sets the variables of `environment`. It takes many microseconds, so it does not belong
        into what is timed.
        """
        return mock.patch.dict(os.environ, self.environment)

    def on(self, kernels: Any) -> Callable[[], None]:
        """The calls of these kernels, with everything looked up before."""
        calls = [(getattr(kernels, name), positional(name, a)) for name, a in self.calls]

        def run() -> None:
            for kernel, arguments in calls:
                kernel(*arguments)

        return run

    def run(self, kernels: Any) -> None:
        with self.setting():
            self.on(kernels)()


def positional(kernel: str, arguments: Mapping[str, Any]) -> list[Any]:
    """All arguments of a kernel in its order, None where `arguments` has none of that name.
    TypeError for a name that the kernel does not have.
    """
    names = [argument.name for argument in backend.arguments(kernel)]
    if unknown := arguments.keys() - set(names):
        raise TypeError(f"{kernel} has no argument {', '.join(sorted(unknown))}")
    return [arguments.get(name) for name in names]


class Maker:
    """Makes arrays of one storage type on one device, and cases of them: xp is numpy or cupy.

    groups: of rows, in the backward passes that sum gradients of parameters. pool: how many
    random numbers are drawn; larger arrays repeat them.
    """

    def __init__(self, xp: Any, dtype: str, groups: int = 1, pool: int = (1 << 22) + 3):
        self.xp = xp
        self.dtype = dtype
        self.groups = groups
        self._rng = np.random.default_rng(7)
        # Drawn on the host, so that every device gets the same numbers.
        self._pool = xp.asarray(self._rng.standard_normal(pool, dtype=np.float32))

    def storage(self, dtype: str | None = None) -> Any:
        name = dtype or self.dtype
        return backend.bfloat16() if name == "bfloat16" else np.dtype(name)

    def normal(self, *shape: int, dtype: str | None = None) -> Any:
        flat = self.xp.empty(math.prod(shape), self.storage(dtype))
        at = int(self._rng.integers(len(self._pool)))
        done = 0
        while done < flat.size:
            piece = self._pool[at : at + flat.size - done]
            flat[done : done + piece.size] = piece.astype(flat.dtype)
            done, at = done + piece.size, 0
        return flat.reshape(shape)

    def empty(self, *shape: int, dtype: str | None = None) -> Any:
        return self.xp.empty(shape, self.storage(dtype))

    def full(self, value: float, *shape: int) -> Any:
        return self.xp.full(shape, value, np.float32)

    def ids(self, rows: int, classes: int) -> Any:
        return self.xp.asarray(self._rng.integers(0, classes, rows, dtype=np.int64))

    def case(
        self,
        kernel: str,
        arguments: dict[str, Any],
        shape: tuple[int, ...],
        rival: Rival | None,
        option: str = "",
        **sizes: int,
    ) -> Case:
        """One call of a kernel that is bound by memory; `option` is added to its name, `sizes` are
        the letters of its contract.
        """
        name = f"{kernel}, {option}" if option else kernel
        moved = traffic.bytes_moved(kernel, sizes, arguments, self.storage().itemsize)
        return Case(name, shape, self.dtype, moved, ((kernel, arguments),), rival)

    def product(
        self,
        kernel: str,
        arguments: dict[str, Any],
        shapes: tuple[tuple[int, ...], ...],
        shape: tuple[int, ...],
        rival: Callable[..., Any],
        **sizes: int,
    ) -> Iterator[Case]:
        """One call of a kernel that multiplies matrices, beside `rival` of tensors of the shapes
        `shapes`; in bfloat16 a second time by Hopper's path.

        A backward kernel is timed beside the backward pass through `rival`. Bytes: every array
        once.
        """
        beside = torch_backward if kernel.endswith("_backward") else torch_forward
        once = sum(a.nbytes for a in arguments.values() if hasattr(a, "nbytes"))
        case = Case(
            kernel,
            shape,
            self.dtype,
            once,
            ((kernel, arguments),),
            beside(self.dtype, rival, *shapes),
            traffic.operations(kernel, sizes, arguments),
            gemm=True,
        )
        yield case
        if self.dtype == "bfloat16":
            hopper = {"BYHAND_GEMM_HOPPER": "1"}
            yield replace(case, name=f"{kernel}, Hopper", environment=hopper, gemm=False)


@dataclass(frozen=True)
class Calls:
    """The calls of an op: `make(maker, *size)` yields them for one size.

    small: sizes for checks, of every path through the kernels. full: the sizes that are timed;
    where memory is the limit, no array that matters fits into a cache of 60 MB. counted: the one
    size whose instructions are counted on a CPU; not a multiple of any vector.
    """

    make: Callable[..., Iterator[Case]]
    small: list[tuple[Any, ...]]
    full: list[tuple[Any, ...]]
    counted: tuple[Any, ...]
    dtypes: tuple[str, ...] = DTYPES


# --- PyTorch ------------------------------------------------------------------------------------

TORCH_DEVICE = "cuda"


def torch_device() -> str:
    return TORCH_DEVICE


def torch_normal(dtype: str, *shape: int) -> Any:
    return torch.randn(shape, device=TORCH_DEVICE).to(getattr(torch, dtype))


def torch_forward(dtype: str, function: Callable[..., Any], *shapes: tuple[int, ...]) -> Rival:
    """`function` of tensors of these shapes, no gradients asked for."""

    def build() -> Callable[[], Any]:
        return partial(function, *(torch_normal(dtype, *shape) for shape in shapes))

    return build


def torch_backward(dtype: str, function: Callable[..., Any], *shapes: tuple[int, ...]) -> Rival:
    """The backward pass through `function`, for the gradients of all its tensors."""

    def build() -> Callable[[], Any]:
        leaves = [torch_normal(dtype, *shape).requires_grad_() for shape in shapes]
        y = function(*leaves)
        dy = torch.randn_like(y)
        return lambda: torch.autograd.grad(y, leaves, dy, retain_graph=True)

    return build
