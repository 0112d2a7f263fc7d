"""What bench/gpu.py times: calls of kernels on arrays made for them, and PyTorch's counterparts."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np

from byhand import backend

F32 = "float32"
DTYPES = ("bfloat16", F32)
Rival = Callable[[], Callable[[], Any]]  # makes PyTorch's arrays -> what is to be timed


@dataclass(frozen=True)
class Case:
    """Kernels called one after the other with these arguments, by name; absent ones are None.

    bytes: what the contract's TRAFFIC line allows to be moved. flops: of the products of matrices
    that the results need, where those are what takes the time. gemm: cuBLASLt can make them.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    calls: tuple[tuple[str, dict[str, Any]], ...] = field(repr=False)
    rival: Rival | None = field(default=None, repr=False)
    flops: int = 0
    gemm: bool = False
    environment: dict[str, str] = field(default_factory=dict)  # while it runs

    def __str__(self) -> str:
        return f"{self.name} {'x'.join(map(str, self.shape))} {self.dtype}"

    def run(self, kernels: Any) -> None:
        with mock.patch.dict(os.environ, self.environment):
            self._run(kernels)

    def _run(self, kernels: Any) -> None:
        for kernel, arguments in self.calls:
            names = [argument.name for argument in backend.arguments(kernel)]
            if unknown := arguments.keys() - set(names):
                raise TypeError(f"{kernel} has no argument {', '.join(sorted(unknown))}")
            getattr(kernels, kernel)(*(arguments.get(name) for name in names))


class Maker:
    """Arrays for one storage type on one home: xp is numpy or cupy."""

    def __init__(self, xp: Any, dtype: str, groups: int = 1):
        self.xp = xp
        self.dtype = dtype
        self.groups = groups  # of rows, in the backward passes that add up parameters' gradients
        self._rng = np.random.default_rng(7)
        # Drawn on the host, so that every home is given the same numbers; large arrays repeat them.
        self._pool = xp.asarray(self._rng.standard_normal((1 << 22) + 3, dtype=np.float32))

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
        self, kernel: str, arguments: dict[str, Any], x: Any, passes: int, rival: Rival
    ) -> Case:
        """One kernel that reads or writes as much as `passes` arrays like x."""
        calls = ((kernel, arguments),)
        return Case(kernel, x.shape, self.dtype, passes * x.nbytes, calls, rival)


TORCH_DEVICE = "cuda"


def torch_device() -> str:
    return TORCH_DEVICE


def torch_normal(dtype: str, *shape: int) -> Any:
    import torch

    return torch.randn(shape, device=TORCH_DEVICE).to(getattr(torch, dtype))
