"""A linear layer."""

from __future__ import annotations

from collections.abc import Iterator

from bench import gpu_case
from bench.cpu_case import PRESET_ROWS, Pair, floats, spec, twins_in, zeros
from bench.gpu_case import Calls, Maker
from bench.lazy import F
from byhand.ops import linear

VOCABULARY = {"gpt2": 50257}  # the others read characters: 65


def pair(R: int, K: int, N: int, bf16: bool) -> Pair:
    x, w, b, dy = floats(R, K), floats(N, K), floats(N), floats(R, N)
    dw, db = zeros(w), zeros(b)
    precision = {"bf16": True} if bf16 else {}
    return Pair(
        "linear",
        {"R": R, "N": N, "K": K},
        lambda: linear.forward(x, w, b, **precision),
        lambda saved: linear.backward(dy, saved, dw, db),
        twins_in(bf16, F.linear, x, w, b),
        dy,
        bf16=bf16,
        others=({} if bf16 else {"numpy": lambda: x @ w.T + b}, {}),
    )


def calls(m: Maker, R: int, K: int, N: int) -> Iterator[gpu_case.Case]:
    x, w, b, dy = m.normal(R, K), m.normal(N, K), m.normal(N), m.normal(R, N)
    inputs, sizes = {"x": x, "w": w, "bf16": False}, {"R": R, "N": N, "K": K}

    def rival(x, w, b):
        return F.linear(x, w, b)

    shapes, shape = (x.shape, w.shape, b.shape), (R, K, N)
    forward = {"y": m.empty(R, N), "b": b, **inputs}
    yield from m.product("linear_forward", forward, shapes, shape, rival, **sizes)
    sums = {"dw": m.full(0, N, K), "db": m.full(0, N)}
    backward = {"dx": m.empty(R, K), **sums, "dy": dy, **inputs}
    yield from m.product("linear_backward", backward, shapes, shape, rival, **sizes)


CPU = [
    spec(f"linear{' bf16' if bf16 else ''} {R}x{C} to {N}", pair, R, C, N, bf16)
    for bf16 in (False, True)
    for preset, (R, C) in PRESET_ROWS.items()
    for N in (3 * C, C, VOCABULARY.get(preset, 65))
]
TINY = [spec("linear", pair, 1, 16, 16, False)]
GPU = Calls(
    calls,
    # In the first, a gradient is summed in pieces; 8 and 9 rows are those of decoding.
    small=[(2100, 24, 40), (40, 24, 136), (9, 17, 33), (8, 24, 40)],
    full=[
        *((1 << 16, inner, cols) for inner, cols in ((768, 768), (768, 2304))),
        (8, 8192, 8192),  # as in decoding
    ],
    counted=(61, 67, 71),
)
