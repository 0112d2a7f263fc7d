"""Layernorm, and layernorm of a residual sum."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bench import gpu_case, norms
from bench.cpu_case import ROWS, Pair, floats, spec, twin, zeros
from bench.gpu_case import NORM_ROWS, SMALL_ROWS, Calls, Maker
from bench.lazy import F
from byhand.ops import layernorm


def by_numpy(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-5) * w + b


def pair(R: int, C: int) -> Pair:
    x, w, b, dy = floats(R, C), floats(C), floats(C), floats(R, C)
    dw, db = zeros(w), zeros(b)
    return Pair(
        "layernorm",
        {"R": R, "C": C},
        lambda: layernorm.forward(x, w, b),
        lambda saved: layernorm.backward(dy, saved, dw, db),
        {"torch": twin(lambda x, w, b: F.layer_norm(x, (C,), w, b), x, w, b)},
        dy,
        others=({"numpy": lambda: by_numpy(x, w, b)}, {}),
    )


def calls(m: Maker, R: int, C: int) -> Iterator[gpu_case.Case]:
    statistics = {"mean": m.full(0, R), "rstd": m.full(1, R)}
    w, b = m.normal(C), m.normal(C)
    sums = {"dw": m.full(0, C), "db": m.full(0, C), "work": m.full(0, m.groups, 2, C)}

    def rival(x, w, b):
        return F.layer_norm(x, (C,), w, b)

    forward, backward = {"w": w, "b": b, **statistics}, {"w": w, **statistics, **sums}
    yield from norms.calls(m, "layernorm", R, C, forward, backward, rival)


CPU = [
    *(spec(f"layernorm {R}x{C}", pair, R, C) for R, C in ROWS),
    *norms.residual_specs("layernorm", layernorm, lambda *x: F.layer_norm(*x)),
]
TINY = [spec("layernorm", pair, 1, 16)]
GPU = Calls(calls, small=SMALL_ROWS, full=NORM_ROWS, counted=(61, 257))
