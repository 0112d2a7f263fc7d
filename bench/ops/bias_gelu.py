"""A bias and GELU, in its tanh form."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bench import gpu_case
from bench.cpu_case import ROWS, Pair, floats, spec, twin, zeros
from bench.gpu_case import SMALL_ROWS, Calls, Maker, torch_backward, torch_forward
from bench.lazy import F
from byhand.ops import bias_gelu


def by_torch(x, b):
    return F.gelu(x + b, approximate="tanh")


def by_numpy(x: np.ndarray, b: np.ndarray) -> np.ndarray:
    x = x + b
    return 0.5 * x * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x * x * x)))


def pair(R: int, C: int) -> Pair:
    x, b, dy = floats(R, C), floats(C), floats(R, C)
    db = zeros(b)
    return Pair(
        "bias_gelu",
        {"R": R, "C": C},
        lambda: bias_gelu.forward(x, b, "tanh"),
        lambda saved: bias_gelu.backward(dy, saved, db),
        {"torch": twin(by_torch, x, b)},
        dy,
        others=({"numpy": lambda: by_numpy(x, b)}, {}),
    )


def calls(m: Maker, R: int, C: int) -> Iterator[gpu_case.Case]:
    x, dy, b, to = m.normal(R, C), m.normal(R, C), m.normal(C), m.empty(R, C)
    inputs, shapes = {"x": x, "b": b, "tanh": True}, ((R, C), (C,))
    rival = torch_forward(m.dtype, by_torch, *shapes)
    yield m.case("bias_gelu_forward", {"y": to, **inputs}, x.shape, rival, R=R, C=C)
    rival = torch_backward(m.dtype, by_torch, *shapes)
    arguments = {"dx": to, "db": m.full(0, C), "dy": dy, **inputs}
    yield m.case("bias_gelu_backward", arguments, x.shape, rival, R=R, C=C)


CPU = [spec(f"bias_gelu {R}x{C}", pair, R, C) for R, C in ROWS]
TINY = [spec("bias_gelu", pair, 1, 16)]
GPU = Calls(calls, small=SMALL_ROWS, full=[(1 << 16, 3072)], counted=(61, 257))
