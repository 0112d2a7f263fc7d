"""A linear function of every element."""

from __future__ import annotations

from collections.abc import Iterator

from bench import gpu_case
from bench.cpu_case import ROWS, Pair, floats, spec, twin
from bench.gpu_case import SMALL_ROWS, Calls, Maker
from byhand.ops import scale_shift


def pair(R: int, C: int) -> Pair:
    x, dy = floats(R, C), floats(R, C)
    return Pair(
        "scale_shift",
        {"R": R, "C": C},
        lambda: scale_shift.forward(x, 0.7, -1.5),
        lambda saved: scale_shift.backward(dy, saved),
        {"torch": twin(lambda x: 0.7 * x - 1.5, x)},
        dy,
    )


def calls(m: Maker, R: int, C: int) -> Iterator[gpu_case.Case]:
    x, to, options = m.normal(R, C), m.normal(R, C), {"scale": 0.7, "shift": -1.5}
    yield m.case("scale_shift_forward", {"y": to, "x": x, **options}, x.shape, None, R=R, C=C)
    yield m.case("scale_shift_backward", {"dx": to, "dy": x, **options}, x.shape, None, R=R, C=C)


CPU = [spec(f"scale_shift {R}x{C}", pair, R, C) for R, C in ROWS]
TINY = [spec("scale_shift", pair, 1, 16)]
GPU = Calls(calls, small=SMALL_ROWS, full=[(1 << 14, 1 << 12)], counted=(61, 257))
