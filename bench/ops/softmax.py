"""Softmax over the last axis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bench import gpu_case
from bench.cpu_case import ROWS, Pair, floats, spec, twin
from bench.gpu_case import SMALL_ROWS, Calls, Maker, torch_forward, torch_normal
from bench.lazy import F, torch
from byhand.ops import softmax


def by_numpy(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def pair(R: int, C: int) -> Pair:
    x, dy = floats(R, C), floats(R, C)
    return Pair(
        "softmax",
        {"R": R, "C": C},
        lambda: softmax.forward(x),
        lambda saved: softmax.backward(dy, saved),
        {"torch": twin(lambda x: F.softmax(x, -1), x)},
        dy,
        others=({"numpy": lambda: by_numpy(x)}, {}),
    )


def calls(m: Maker, R: int, C: int) -> Iterator[gpu_case.Case]:
    x, dy, y, to = (m.normal(R, C) for _ in range(4))

    def backward() -> Callable[[], Any]:
        g, p = torch_normal(m.dtype, R, C), torch_normal(m.dtype, R, C).softmax(-1)
        return lambda: torch.ops.aten._softmax_backward_data(g, p, -1, p.dtype)

    forward = torch_forward(m.dtype, lambda x: torch.softmax(x, -1), (R, C))
    arguments = {"y": to, "x": x, "scale": 1.0, "causal": False}
    yield m.case("softmax_forward", arguments, x.shape, forward, R=R, C=C)
    arguments = {"dx": to, "dy": dy, "y": y, "scale": 1.0}
    yield m.case("softmax_backward", arguments, x.shape, backward, R=R, C=C)


CPU = [spec(f"softmax {R}x{C}", pair, R, C) for R, C in ROWS]
TINY = [spec("softmax", pair, 1, 16)]
GPU = Calls(
    calls,
    small=SMALL_ROWS,
    full=[((1 << 26) // cols, cols) for cols in (256, 1024, 4096, 16384, 32768)],
    counted=(61, 257),
)
