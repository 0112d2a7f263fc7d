"""RMSNorm, and RMSNorm of a residual sum."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bench import gpu_case, norms
from bench.cpu_case import ROWS, Pair, floats, spec, twin, zeros
from bench.gpu_case import NORM_ROWS, SMALL_ROWS, Calls, Maker
from bench.lazy import F
from byhand.ops import rmsnorm


def pair(R: int, C: int) -> Pair:
    x, w, dy = floats(R, C), floats(C), floats(R, C)
    dw = zeros(w)
    return Pair(
        "rmsnorm",
        {"R": R, "C": C},
        lambda: rmsnorm.forward(x, w),
        lambda saved: rmsnorm.backward(dy, saved, dw),
        {"torch": twin(lambda x, w: F.rms_norm(x, (C,), w, 1e-5), x, w)},
        dy,
        others=({"numpy": lambda: x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * w}, {}),
    )


def calls(m: Maker, R: int, C: int) -> Iterator[gpu_case.Case]:
    forward = {"w": m.normal(C), "rstd": m.full(1, R)}
    backward = {**forward, "dw": m.full(0, C), "work": m.full(0, m.groups, C)}

    def rival(x, w):
        return F.rms_norm(x, (C,), w)

    yield from norms.calls(m, "rmsnorm", R, C, forward, backward, rival)


CPU = [
    *(spec(f"rmsnorm {R}x{C}", pair, R, C) for R, C in ROWS),
    *norms.residual_specs("rmsnorm", rmsnorm, lambda *x: F.rms_norm(*x)),
]
TINY = [spec("rmsnorm", pair, 1, 16)]
GPU = Calls(calls, small=SMALL_ROWS, full=NORM_ROWS, counted=(61, 257))
