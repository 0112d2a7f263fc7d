"""Rotary position embedding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bench import gpu_case
from bench.cpu_case import Case, Pair, cost, floats, single, spec, twin
from bench.gpu_case import Calls, Maker, torch_backward, torch_forward
from bench.lazy import torch
from byhand.ops import rope


def tables(T: int, F: int) -> tuple[np.ndarray, np.ndarray]:
    angles = np.arange(T)[:, None] * 10000.0 ** (-np.arange(F) / F)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def by_torch(x: Any, cos: Any, sin: Any) -> Any:
    """The formula of transformers' Llama; cos and sin (T, 1, D)."""
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


def interleaved_by_torch(x: Any, cos: Any, sin: Any) -> Any:
    """The formula of transformers' GPT-J."""
    turned = torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
    return x * cos + turned * sin


def wide(table: Any) -> Any:
    """A number for each element, (T, 1, D)."""
    return torch.cat((table, table), -1)[:, None]


def pair(B: int, T: int, H: int, D: int) -> Pair:
    x, dy = floats(B, T, H, D), floats(B, T, H, D)
    cos, sin = tables(T, D // 2)
    c, s = (wide(torch.from_numpy(a)) for a in (cos, sin))
    return Pair(
        "rope",
        {"B": B, "T": T, "H": H, "D": D},
        lambda: rope.forward(x, cos, sin),
        lambda saved: rope.backward(dy, saved),
        {"torch": twin(lambda x: by_torch(x, c, s), x)},
        dy,
        streams=("copy", "copy"),
    )


def in_place(interleaved: bool) -> Callable[..., Case]:
    """Queries and keys where a linear layer has written them, beside the values."""

    def make(name: str, B: int, T: int, H: int, D: int) -> Case:
        packed = floats(B, T, 3 * H, D)
        part = packed[:, :, : 2 * H]
        cos, sin = tables(T, D // 2)
        theirs = torch.from_numpy(packed)[:, :, : 2 * H]
        c, s = (wide(torch.from_numpy(a)) for a in (cos, sin))
        return Case(
            name,
            lambda: rope.forward(part, cos, sin, interleaved=interleaved, out=part),
            {"torch": lambda: (interleaved_by_torch if interleaved else by_torch)(theirs, c, s)},
            **cost("rope_forward", {"B": B, "T": T, "H": 2 * H, "D": D}),
            stream="update",
        )

    return make


def calls(m: Maker, B: int, T: int, H: int, D: int) -> Iterator[gpu_case.Case]:
    x, to = m.normal(B, T, H, D), m.empty(B, T, H, D)
    cos, sin = (m.xp.asarray(a) for a in tables(T, D // 2))
    sizes, angles = dict(B=B, T=T, H=H, D=D), {"cos": cos, "sin": sin, "start": 0}

    def rival(x: Any) -> Any:
        # Rows of any cosines take the same time.
        c, s = (wide(torch.ones(T, D // 2, device=x.device, dtype=x.dtype)) for _ in range(2))
        return by_torch(x, c, s)

    for option in ("", "interleaved"):
        kind = {**angles, "interleaved": bool(option)}
        forward = torch_forward(m.dtype, rival, x.shape)
        yield m.case("rope_forward", {"y": to, "x": x, **kind}, x.shape, forward, option, **sizes)
        backward = torch_backward(m.dtype, rival, x.shape)
        given = {"dx": to, "dy": x, **kind}
        yield m.case("rope_backward", given, x.shape, backward, option, **sizes)
    packed = m.normal(B, T, 3 * H, D)
    part, sizes = packed[:, :, : 2 * H], {**sizes, "H": 2 * H}
    arguments = {"y": part, "x": part, **angles, "interleaved": False}
    yield m.case("rope_forward", arguments, part.shape, None, "in place", **sizes)


SIZES = [(12, 64, 4, 32), (64, 64, 6, 64), (4, 64, 12, 64), (32, 1024, 12, 64)]

CPU = [
    *(spec(f"rope {B}x{T}x{H}x{D}", pair, B, T, H, D) for B, T, H, D in SIZES),
    *(
        single(f"rope in place{kind} {B}x{T}x{H}x{D}", in_place(bool(kind)), B, T, H, D)
        for kind in ("", ", interleaved")
        for B, T, H, D in SIZES
    ),
]
TINY = [spec("rope", pair, 1, 1, 1, 16)]
GPU = Calls(
    calls,
    small=[(2, 5, 3, 32), (1, 3, 2, 18), (2, 2, 3, 128)],
    full=[(8, 4096, 16, 64), (4, 4096, 16, 128)],
    counted=(3, 7, 5, 34),
)
