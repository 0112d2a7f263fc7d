"""What the cases of layernorm and rmsnorm share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from bench import gpu_case
from bench.cpu_case import ROWS, Case, Spec, cost, floats, single
from bench.gpu_case import Maker, torch_normal
from bench.lazy import torch


def residual_specs(op: str, norm: Any, rival: Callable[..., Any]) -> list[Spec]:
    """CPU cases of the norm of a residual sum, the sum written too. norm: a module of byhand.ops.
    rival: PyTorch's norm of x, its last axes' lengths and a weight.
    """

    def make(name: str, R: int, C: int) -> Case:
        x, add, w = floats(R, C), floats(R, C), floats(C)
        tx, ta, tw = (torch.from_numpy(a) for a in (x, add, w))

        def apart() -> Any:
            s = x + add
            return s, norm.forward(s, w)

        def beside() -> Any:
            s = tx + ta
            return s, rival(s, (C,), tw)

        return Case(
            name,
            lambda: norm.forward_add(x, add, w),
            {"torch": beside, "in two steps": apart},
            **cost(f"{op}_forward", {"R": R, "C": C}, ["add"]),
            stream="triad",
        )

    return [single(f"residual + {op} {R}x{C}", make, R, C) for R, C in ROWS]


def calls(
    m: Maker,
    op: str,
    R: int,
    C: int,
    forward: dict[str, Any],
    backward: dict[str, Any],
    rival: Callable[..., Any],
) -> Iterator[gpu_case.Case]:
    """Both kernels, of x and of the residual sum x + add, whose backward adds the gradient of that.

    forward, backward: the arguments beside x, add and their gradients. rival: PyTorch's norm of x
    and of the parameters in `forward`.
    """
    x, dy, add, to, s, ds = (m.normal(R, C) for _ in range(6))
    parameters = sum(name in forward for name in ("w", "b"))
    for option in ("", "add"):
        beside = partial(_torch, m, R, C, parameters, rival, bool(option))
        arguments = {"y": to, "x": x, "eps": 1e-5, **forward}
        arguments |= {"s": s, "add": add} if option else {}
        yield m.case(f"{op}_forward", arguments, x.shape, beside(False), option, R=R, C=C)
        arguments = {"dx": to, "dy": dy, "x": x, **backward}
        arguments |= {"ds": ds} if option else {}
        yield m.case(f"{op}_backward", arguments, x.shape, beside(True), option, R=R, C=C)


def _torch(
    m: Maker, R: int, C: int, parameters: int, rival: Callable[..., Any], added: bool, back: bool
) -> gpu_case.Rival:
    def build() -> Callable[[], Any]:
        x, add, dy = (torch_normal(m.dtype, R, C) for _ in range(3))
        leaves = [x, *(torch_normal(m.dtype, C) for _ in range(parameters))]
        if not back:
            return lambda: rival(x + add if added else x, *leaves[1:])
        for tensor in leaves:
            tensor.requires_grad_()
        y = rival(*leaves)

        def run() -> Any:
            dx, *rest = torch.autograd.grad(y, leaves, dy, retain_graph=True)
            return (dx + add if added else dx, *rest)

        return run

    return build
