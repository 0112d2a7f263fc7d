"""The gated feed-forward layer of a transformer: (silu(x w1T) * (x w3T)) w2T."""

from __future__ import annotations

from collections.abc import Iterator

from bench import gpu_case
from bench.cpu_case import PRESET_ROWS, Pair, floats, spec, twins_in, zeros
from bench.gpu_case import Calls, Maker
from bench.lazy import F
from byhand.ops import swiglu_ffn


def by_torch(x, w1, w3, w2):
    return F.linear(F.silu(F.linear(x, w1)) * F.linear(x, w3), w2)


def hidden_of(C: int) -> int:
    """8/3 C, so that three weights have as many numbers as two of 4 C rows, in whole vectors."""
    return 8 * C // 3 // 64 * 64


def pair(R: int, C: int, bf16: bool) -> Pair:
    F_ = hidden_of(C)
    x, dy = floats(R, C), floats(R, C)
    w1, w3, w2 = floats(F_, C), floats(F_, C), floats(C, F_)
    grads = [zeros(w) for w in (w1, w3, w2)]
    precision = {"bf16": True} if bf16 else {}
    return Pair(
        "swiglu_ffn",
        {"R": R, "C": C, "F": F_},
        lambda: swiglu_ffn.forward(x, w1, None, w3, None, w2, None, **precision),
        lambda saved: swiglu_ffn.backward(dy, saved, dw1=grads[0], dw3=grads[1], dw2=grads[2]),
        twins_in(bf16, by_torch, x, w1, w3, w2),
        dy,
        bf16=bf16,
    )


def calls(m: Maker, R: int, C: int, H: int) -> Iterator[gpu_case.Case]:
    x, dy = m.normal(R, C), m.normal(R, C)
    w1, w3, w2 = m.normal(H, C), m.normal(H, C), m.normal(C, H)
    gate, up = m.normal(R, H), m.normal(R, H)
    h, dgate, dup = m.empty(R, H), m.empty(R, H), m.empty(R, H)
    number = swiglu_ffn.FUNCTIONS["silu"]
    inputs = {"x": x, "w1": w1, "w3": w3, "w2": w2, "function": number, "bf16": False}
    shapes, shape = (x.shape, w1.shape, w3.shape, w2.shape), (R, C, H)
    sizes = {"R": R, "C": C, "F": H}
    forward = {"y": m.empty(R, C), "gate": m.empty(R, H), "up": m.empty(R, H), "h": h, **inputs}
    yield from m.product("swiglu_ffn_forward", forward, shapes, shape, by_torch, **sizes)
    sums = {"dw1": m.full(0, H, C), "dw3": m.full(0, H, C), "dw2": m.full(0, C, H)}
    work = {"h": h, "dgate": dgate, "dup": dup}
    saved = {"dy": dy, "gate": gate, "up": up}
    backward = {"dx": m.empty(R, C), **work, **saved, **sums, **inputs}
    yield from m.product("swiglu_ffn_backward", backward, shapes, shape, by_torch, **sizes)


CPU = [
    spec(f"swiglu_ffn{' bf16' if bf16 else ''} {R}x{C}", pair, R, C, bf16)
    for bf16 in (False, True)
    for R, C in PRESET_ROWS.values()
]
TINY = [spec("swiglu_ffn", pair, 1, 24, False)]
GPU = Calls(
    calls,
    small=[(40, 24, 136), (9, 17, 33), (8, 24, 40)],
    full=[(1 << 14, channels, hidden_of(channels)) for channels in (768, 1024, 2048, 4096)],
    counted=(61, 37, 149),
)
