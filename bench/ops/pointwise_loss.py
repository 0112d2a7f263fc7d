"""Losses of each element of a prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bench import gpu_case
from bench.cpu_case import RNG, Pair, floats, spec, twin
from bench.gpu_case import Calls, Maker, Rival, torch_normal
from bench.lazy import F, torch
from byhand.ops import pointwise_loss

TORCH: dict[str, Callable[..., Any]] = {
    "squared": lambda x, t, how: F.mse_loss(x, t, reduction=how),
    "huber": lambda x, t, how: F.huber_loss(x, t, reduction=how),
    "bce": lambda x, t, how: F.binary_cross_entropy_with_logits(x, t, reduction=how),
}


def pair(name: str, N: int) -> Pair:
    x, t = floats(N), floats(N)
    t[...] = RNG.random(N) < 0.5
    target, one = torch.from_numpy(t), np.ones((), np.float32)
    return Pair(
        "pointwise_loss",
        {"N": N},
        lambda: pointwise_loss.forward(x, t, name),  # type: ignore[arg-type]
        lambda saved: pointwise_loss.backward(one, saved),
        {"torch": twin(lambda x: TORCH[name](x, target, "mean"), x)},
        one,
        streams=("read", "triad"),
    )


def calls(m: Maker, N: int) -> Iterator[gpu_case.Case]:
    x, t, dx = m.normal(N), m.normal(N), m.empty(N)
    loss, dloss, losses, dlosses = m.full(0), m.full(1), m.full(0, N), m.full(1, N)

    def rival(name: str, how: str, backward: bool) -> Rival:
        def build() -> Callable[[], Any]:
            a, b = torch_normal(m.dtype, N).requires_grad_(), torch_normal(m.dtype, N)
            if not backward:
                return lambda: TORCH[name](a.detach(), b, how)
            y = TORCH[name](a, b, how)
            return lambda: torch.autograd.grad(y, a, torch.ones_like(y), retain_graph=True)

        return build

    for number, name in enumerate(pointwise_loss.NAMES):
        rule = {"prediction": x, "target": t, "function": number, "a": 1.0, "mean": True}
        arguments = {"loss": loss, **rule}
        beside = rival(name, "mean", False)
        yield m.case("pointwise_loss_forward", arguments, (N,), beside, name, N=N)
        arguments = {"dx": dx, "dloss": dloss, **rule}
        beside = rival(name, "mean", True)
        yield m.case("pointwise_loss_backward", arguments, (N,), beside, name, N=N)
    each = {"prediction": x, "target": t, "function": 0, "a": 1.0, "mean": False}
    arguments = {"losses": losses, **each}
    beside = rival("squared", "none", False)
    yield m.case("pointwise_loss_forward", arguments, (N,), beside, "each", N=N)
    arguments = {"dx": dx, "dlosses": dlosses, **each}
    beside = rival("squared", "none", True)
    yield m.case("pointwise_loss_backward", arguments, (N,), beside, "each", N=N)


CPU = [
    spec(f"pointwise_loss {name} {N}", pair, name, N)
    for name in TORCH
    for N in ((98_304, 25_165_824) if name != "huber" else (25_165_824,))
]
TINY = [spec("pointwise_loss", pair, "squared", 16)]
GPU = Calls(calls, small=[(1003,), (40_000,)], full=[(1 << 26,)], counted=(15_677,))
