"""The product of two matrices."""

from __future__ import annotations

from collections.abc import Iterator

from bench import gpu_case
from bench.cpu_case import Pair, floats, spec, twin
from bench.gpu_case import Calls, Maker
from bench.lazy import torch
from byhand.ops import matmul


def pair(N: int) -> Pair:
    a, b, dc = floats(N, N), floats(N, N), floats(N, N)
    return Pair(
        "matmul",
        {"M": N, "N": N, "K": N},
        lambda: matmul.forward(a, b),
        lambda saved: matmul.backward(dc, saved),
        {"torch": twin(torch.mm, a, b)},
        dc,
        others=({"numpy": lambda: a @ b}, {}),
    )


def calls(m: Maker, M: int, K: int, N: int) -> Iterator[gpu_case.Case]:
    a, b, dc = m.normal(M, K), m.normal(K, N), m.normal(M, N)
    options = {"transpose_a": False, "transpose_b": False, "bf16": False}
    shapes, shape, sizes = (a.shape, b.shape), (M, K, N), {"M": M, "N": N, "K": K}

    def rival(a, b):
        return a @ b

    forward = {"c": m.empty(M, N), "a": a, "b": b, **options}
    yield from m.product("matmul_forward", forward, shapes, shape, rival, **sizes)
    backward = {"da": m.empty(M, K), "db": m.empty(K, N), "dc": dc, "a": a, "b": b, **options}
    yield from m.product("matmul_backward", backward, shapes, shape, rival, **sizes)


CPU = [spec(f"matmul {N}", pair, N) for N in (512, 1024)]
TINY = [spec("matmul", pair, 16)]
GPU = Calls(
    calls,
    small=[(40, 24, 136), (9, 17, 33), (8, 24, 40)],
    full=[(N, N, N) for N in (2048, 4096, 8192)],
    counted=(61, 67, 71),
)
