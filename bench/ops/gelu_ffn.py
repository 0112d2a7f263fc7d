"""The feed-forward layer of a transformer: linear, GELU in its tanh form, linear."""

from __future__ import annotations

from collections.abc import Iterator

from bench import gpu_case
from bench.cpu_case import PRESET_ROWS, Pair, floats, spec, twins_in, zeros
from bench.gpu_case import Calls, Maker
from bench.lazy import F, torch
from byhand.ops import gelu_ffn


def by_torch(x, w1, b1, w2, b2):
    return F.linear(F.gelu(F.linear(x, w1, b1), approximate="tanh"), w2, b2)


def by_torch_fused(x, w1, b1, w2, b2):
    """On a GPU this is cuBLASLt with bias and GELU in its epilogue, which saves nothing for the
    backward pass.
    """
    h = torch._addmm_activation(b1, x, w1.t(), use_gelu=True)
    return F.linear(h, w2, b2)


def pair(R: int, C: int, bf16: bool) -> Pair:
    x, dy = floats(R, C), floats(R, C)
    weights = [floats(4 * C, C), floats(4 * C), floats(C, 4 * C), floats(C)]
    grads = [zeros(p) for p in weights]
    precision = {"bf16": True} if bf16 else {}
    return Pair(
        "gelu_ffn",
        {"R": R, "C": C, "F": 4 * C},
        lambda: gelu_ffn.forward(x, *weights, None, "tanh", **precision),
        lambda saved: gelu_ffn.backward(dy, saved, *grads),
        twins_in(bf16, by_torch, x, *weights),
        dy,
        bf16=bf16,
    )


def calls(m: Maker, R: int, C: int, H: int) -> Iterator[gpu_case.Case]:
    x, dy, b2 = m.normal(R, C), m.normal(R, C), m.normal(C)
    w1, b1, w2 = m.normal(H, C), m.normal(H), m.normal(C, H)
    pre, h, dpre = m.normal(R, H), m.empty(R, H), m.empty(R, H)
    inputs = {"x": x, "w1": w1, "w2": w2, "tanh": True, "bf16": False}
    shapes, shape = (x.shape, w1.shape, b1.shape, w2.shape, b2.shape), (R, C, H)
    sizes = {"R": R, "C": C, "F": H}
    forward = {"y": m.empty(R, C), "pre": m.empty(R, H), "h": h, "b1": b1, "b2": b2, **inputs}
    yield from m.product("gelu_ffn_forward", forward, shapes, shape, by_torch_fused, **sizes)
    sums = {"dw1": m.full(0, H, C), "db1": m.full(0, H)}
    sums |= {"dw2": m.full(0, C, H), "db2": m.full(0, C)}
    backward = {"dx": m.empty(R, C), "h": h, "dpre": dpre, "dy": dy, "pre": pre, **sums, **inputs}
    yield from m.product("gelu_ffn_backward", backward, shapes, shape, by_torch, **sizes)


CPU = [
    spec(f"gelu_ffn{' bf16' if bf16 else ''} {R}x{C}", pair, R, C, bf16)
    for bf16 in (False, True)
    for R, C in PRESET_ROWS.values()
]
TINY = [spec("gelu_ffn", pair, 1, 16, False)]
GPU = Calls(
    calls,
    small=[(40, 24, 136), (9, 17, 33), (8, 24, 40)],
    full=[(1 << 14, channels, 4 * channels) for channels in (768, 1024, 2048, 4096)],
    counted=(61, 37, 149),
)
