"""What the bench of the ops is made of: a case is one computation written by several libraries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from byhand._host import empty

Run = Callable[[], Any]

RNG = np.random.default_rng(0)

# What the presets make of an op's rows R = batch * context and columns C = width, and one array of
# 100 MB that no cache holds.
ROWS = {"tiny": (768, 128), "guide": (4096, 384), "baby": (16384, 384), "gpt2": (256, 768)}
LARGE = (32768, 768)


@dataclass
class Case:
    """One thing to compute, by byhand and by others, and how much there is to compute or to move.

    ``flops`` counts the operations of what is bound by arithmetic, ``bytes`` the traffic of what is
    bound by memory (the TRAFFIC line of its contract); one of them is 0. ``stream`` is the kind of
    that traffic, one of byhand.roof.STREAMS: a copy writes another array than it reads, a triad
    reads two, an update writes what it has read.
    """

    name: str
    byhand: Run
    rivals: dict[str, Run]
    flops: float = 0.0
    bytes: float = 0.0
    stream: str = "copy"
    bf16: bool = False


@dataclass
class Spec:
    """Cases that share their arrays; `build` makes them, for there is no room for all at once."""

    name: str
    build: Callable[[], list[Case]]
    parts: tuple[str, ...] = ("forward", "backward")

    @property
    def names(self) -> list[str]:
        return [f"{self.name} {part}".rstrip() for part in self.parts]


@dataclass
class Twin:
    """PyTorch's version of an op: the forward pass, and the leaves it differentiates for."""

    forward: Callable[[], torch.Tensor]
    leaves: list[torch.Tensor]

    def runs(self, dy: np.ndarray) -> tuple[Run, Run]:
        """What to time: the forward pass alone, and the backward pass alone."""
        graph = self.forward()
        upstream = torch.from_numpy(dy).to(graph.dtype)

        def forward() -> None:
            with torch.no_grad():
                self.forward()

        def backward() -> None:
            torch.autograd.grad(graph, self.leaves, upstream, retain_graph=True)

        return forward, backward


@dataclass
class Pair:
    """An op in both directions: `cases` turns it into two cases.

    ``backward_flops`` is how much more there is to compute in the backward pass.
    """

    forward: Callable[[], tuple[Any, Any]]  # -> y, saved
    backward: Callable[[Any], Any]  # of saved
    twins: dict[str, Twin]
    dy: np.ndarray
    flops: float = 0.0
    backward_flops: float = 2.0
    bytes: tuple[float, float] = (0.0, 0.0)
    streams: tuple[str, str] = ("copy", "triad")
    bf16: bool = False
    others: tuple[dict[str, Run], dict[str, Run]] = field(default_factory=lambda: ({}, {}))

    def cases(self, name: str) -> list[Case]:
        saved = self.forward()[1]
        runs = {who: twin.runs(self.dy) for who, twin in self.twins.items()}
        forward, backward = ({who: both[i] for who, both in runs.items()} for i in range(2))
        return [
            Case(
                f"{name} forward",
                self.forward,
                forward | self.others[0],
                self.flops,
                self.bytes[0],
                self.streams[0],
                self.bf16,
            ),
            Case(
                f"{name} backward",
                lambda: self.backward(saved),
                backward | self.others[1],
                self.flops * self.backward_flops,
                self.bytes[1],
                self.streams[1],
                self.bf16,
            ),
        ]


def spec(name: str, make: Callable[..., Pair], *sizes: Any) -> Spec:
    return Spec(name, lambda: make(*sizes).cases(name))


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


def leaf(x: np.ndarray, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.from_numpy(x).to(dtype).requires_grad_(True)
