"""Dropout, and dropout before a residual sum."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from bench import gpu_case
from bench.cpu_case import ROWS, Pair, floats, spec, twin
from bench.gpu_case import SMALL_ROWS, Calls, Maker, torch_device, torch_forward, torch_normal
from bench.lazy import F, torch
from byhand.ops import dropout


def pair(R: int, C: int) -> Pair:
    x, dy = floats(R, C), floats(R, C)
    return Pair(
        "dropout",
        {"R": R, "C": C},
        lambda: dropout.forward(x, 0.2, seed=1, offset=0),
        lambda saved: dropout.backward(dy, saved),
        {"torch": twin(lambda x: F.dropout(x, 0.2), x)},
        dy,
        streams=("copy", "copy"),
    )


def calls(m: Maker, R: int, C: int) -> Iterator[gpu_case.Case]:
    x, add, to = m.normal(R, C), m.normal(R, C), m.empty(R, C)

    def backward() -> Callable[[], Any]:
        dy = torch_normal(m.dtype, R, C)
        kept = torch.rand(dy.shape, device=torch_device()) >= 0.1
        return lambda: torch.ops.aten.native_dropout_backward(dy, kept, 1 / 0.9)

    draw, shape = {"p": 0.1, "seed": 1, "offset": 2}, (R, C)
    rival = torch_forward(m.dtype, lambda x: F.dropout(x, 0.1), shape)
    yield m.case("dropout_forward", {"y": to, "x": x, **draw}, shape, rival, R=R, C=C)
    rival = torch_forward(m.dtype, lambda x, add: F.dropout(x, 0.1) + add, shape, shape)
    arguments = {"y": to, "x": x, "add": add, **draw}
    yield m.case("dropout_forward", arguments, shape, rival, "add", R=R, C=C)
    yield m.case("dropout_backward", {"dx": to, "dy": x, **draw}, shape, backward, R=R, C=C)


CPU = [spec(f"dropout {R}x{C}", pair, R, C) for R, C in ROWS]
TINY = [spec("dropout", pair, 1, 16)]
GPU = Calls(calls, small=SMALL_ROWS, full=[(1 << 16, 1 << 10)], counted=(61, 257))
