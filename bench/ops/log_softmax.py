"""The logarithm of softmax over the last axis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bench import gpu_case
from bench.cpu_case import ROWS, Pair, floats, spec, twin
from bench.gpu_case import SMALL_ROWS, Calls, Maker, torch_forward, torch_normal
from bench.lazy import F, torch
from byhand.ops import log_softmax


def by_numpy(x: np.ndarray) -> np.ndarray:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def pair(R: int, C: int) -> Pair:
    x, dy = floats(R, C), floats(R, C)
    return Pair(
        "log_softmax",
        {"R": R, "C": C},
        lambda: log_softmax.forward(x),
        lambda saved: log_softmax.backward(dy, saved),
        {"torch": twin(lambda x: F.log_softmax(x, -1), x)},
        dy,
        others=({"numpy": lambda: by_numpy(x)}, {}),
    )


def calls(m: Maker, R: int, C: int) -> Iterator[gpu_case.Case]:
    x, dy, y, to = (m.normal(R, C) for _ in range(4))

    def backward() -> Callable[[], Any]:
        g, p = torch_normal(m.dtype, R, C), torch_normal(m.dtype, R, C).log_softmax(-1)
        return lambda: torch.ops.aten._log_softmax_backward_data(g, p, -1, p.dtype)

    forward = torch_forward(m.dtype, lambda x: torch.log_softmax(x, -1), (R, C))
    yield m.case("log_softmax_forward", {"y": to, "x": x}, x.shape, forward, R=R, C=C)
    arguments = {"dx": to, "dy": dy, "y": y}
    yield m.case("log_softmax_backward", arguments, x.shape, backward, R=R, C=C)


CPU = [spec(f"log_softmax {R}x{C}", pair, R, C) for R, C in ROWS]
TINY = [spec("log_softmax", pair, 1, 16)]
GPU = Calls(calls, small=SMALL_ROWS, full=[(1 << 14, 1 << 12)], counted=(61, 257))
