"""Activation functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from bench import gpu_case
from bench.cpu_case import ROWS, Pair, floats, spec, twin
from bench.gpu_case import SMALL_ROWS, Calls, Maker, torch_backward, torch_forward
from bench.lazy import F, torch
from byhand.ops import activation

TORCH: dict[str, Callable[[Any], Any]] = {
    "sigmoid": lambda x: torch.sigmoid(x),
    "tanh": lambda x: torch.tanh(x),
    "relu": lambda x: F.relu(x),
    "leaky_relu": lambda x: F.leaky_relu(x),
    "elu": lambda x: F.elu(x),
    "selu": lambda x: F.selu(x),
    "gelu": lambda x: F.gelu(x),
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": lambda x: F.silu(x),
    "softplus": lambda x: F.softplus(x),
}


def pair(name: str, R: int, C: int) -> Pair:
    x, dy = floats(R, C), floats(R, C)
    return Pair(
        "activation",
        {"R": R, "C": C},
        lambda: activation.forward(x, name),
        lambda saved: activation.backward(dy, saved),
        {"torch": twin(TORCH[name], x)},
        dy,
    )


def calls(m: Maker, R: int, C: int) -> Iterator[gpu_case.Case]:
    x, dy, to = m.normal(R, C), m.normal(R, C), m.empty(R, C)
    for name, function in TORCH.items():
        rule = activation.rule_of("bench", name)
        options = {"function": rule.number, "a": rule.a, "b": rule.b}
        rival = torch_forward(m.dtype, function, x.shape)
        arguments = {"y": to, "x": x, **options}
        yield m.case("activation_forward", arguments, x.shape, rival, name, R=R, C=C)
        rival = torch_backward(m.dtype, function, x.shape)
        arguments = {"dx": to, "dy": dy, "y" if rule.saves_y else "x": x, **options}
        yield m.case("activation_backward", arguments, x.shape, rival, name, R=R, C=C)


# The cheapest and the most expensive function at every size, the others where no cache holds them.
CPU = [
    spec(f"activation {name} {R}x{C}", pair, name, R, C)
    for name in TORCH
    for R, C in (ROWS if name in ("relu", "gelu") else ROWS[-1:])
]
TINY = [spec(f"activation {name}", pair, name, 1, 16) for name in ("relu", "tanh")]
GPU = Calls(calls, small=SMALL_ROWS, full=[(1 << 16, 1 << 10)], counted=(61, 257))
