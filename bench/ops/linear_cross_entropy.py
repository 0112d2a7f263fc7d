"""The last layer and the loss in one op, which also computes the gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from bench import gpu_case, traffic
from bench.cpu_case import PRESET_ROWS, RNG, Case, cost, floats, leaf, single, zeros
from bench.gpu_case import Calls, Maker, torch_device, torch_normal
from bench.lazy import F, torch
from byhand.ops import linear_cross_entropy


def case(name: str, R: int, K: int, V: int) -> Case:
    """Loss and gradients in one call, beside PyTorch's forward and backward pass."""
    x, w, targets = floats(R, K), floats(V, K), RNG.integers(0, V, R)
    w *= K**-0.5
    dw = zeros(w)
    tx, tw, classes = leaf(x), leaf(w), torch.from_numpy(targets)

    def beside() -> Any:
        return torch.autograd.grad(F.cross_entropy(F.linear(tx, tw), classes), (tx, tw))

    return Case(
        name,
        lambda: linear_cross_entropy.forward(x, w, targets, dw),
        {"torch": beside},
        **cost("linear_cross_entropy_forward", {"R": R, "V": V, "K": K}, ["dx"]),
    )


def calls(m: Maker, R: int, K: int, V: int, block: int) -> Iterator[gpu_case.Case]:
    x, targets = m.normal(R, K), m.ids(R, V)
    w = (m.normal(V, K) * K**-0.5).astype(m.storage())

    def rival() -> Callable[[], Any]:
        a = torch_normal(m.dtype, R, K).requires_grad_()
        b = torch_normal(m.dtype, V, K).requires_grad_()
        t = torch.randint(0, V, (R,), device=torch_device())
        return lambda: torch.autograd.grad(F.cross_entropy(F.linear(a, b), t), (a, b))

    arguments = {"loss": m.full(0), "count": m.full(0), "dx": m.empty(R, K)}
    arguments |= {"dw": m.full(0, V, K), "work": m.empty(block, V)}
    arguments |= {"x": x, "w": w, "dloss": m.full(1), "targets": targets, "ignore_index": -100}
    arguments |= {"smoothing": 0.0, "mean": True, "bf16": False}
    kernel = "linear_cross_entropy_forward"
    flops = traffic.operations(kernel, {"R": R, "V": V, "K": K}, arguments)
    once, steps = 2 * (x.nbytes + w.nbytes), ((kernel, arguments),)
    yield gpu_case.Case(kernel, (R, K, V), m.dtype, once, steps, rival, flops, gemm=True)


CPU = [
    single(f"linear_cross_entropy {R}x{C} to {V}", case, R, C, V)
    for (R, C), V in zip(PRESET_ROWS.values(), (65, 65, 65, 50257), strict=True)
]
TINY = [single("linear_cross_entropy", case, 1, 16, 16)]
GPU = Calls(
    calls,
    small=[(40, 24, 136, 9), (9, 17, 33, 9), (8, 24, 40, 9)],
    full=[(1 << 14, 768, 50304, 1 << 13)],
    counted=(61, 37, 149, 23),
)
