"""The calls of bench/gpu.py whose time goes into products of matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from byhand.ops.attention import backward_room, forward_room
from gpu_case import Case, Maker, Rival, torch_device, torch_normal


def attention(
    m: Maker, batch: int, keys: int, heads: int, depth: int, causal: bool, queries: int = 0
) -> Iterator[Case]:
    """Self-attention of `keys` positions, or that many behind a few queries: no backward then."""
    q_shape, k_shape = (batch, queries or keys, heads, depth), (batch, keys, heads, depth)
    q, do, o, dq = (m.normal(*q_shape) for _ in range(4))
    k, v, dk, dv = (m.normal(*k_shape) for _ in range(4))
    # A row of even odds: the backward pass takes any log-sum-exp, and these are finite.
    lse = m.full(math.log(keys), batch, heads, q_shape[1])
    pairs = batch * heads * q_shape[1] * keys
    if causal and not queries:
        pairs = pairs * (keys + 1) // (2 * keys)
    inputs = {"q": q, "k": k, "v": v, "scale": depth**-0.5, "causal": causal, "window": 0}
    inputs |= {"dropout": 0.0, "seed": 0, "offset": 0}
    rule = ", one query" if queries == 1 else ", causal" if causal else ""
    work = m.full(0, forward_room(q_shape, k_shape))
    calls = (("attention_forward", {"o": o, "lse": lse, "work": work, **inputs}),)
    size = q.nbytes + k.nbytes + v.nbytes + o.nbytes
    rival = torch_attention(m, q_shape, k_shape, causal and not queries, False)
    name, flops = f"attention_forward{rule}", 4 * pairs * depth
    yield Case(name, k_shape, m.dtype, size, calls, rival, flops)
    if queries:
        return
    work = m.full(0, backward_room(q_shape))
    arguments = {"dq": dq, "dk": dk, "dv": dv, "work": work, "do_": do, "o": o, "lse": lse}
    calls = (("attention_backward", {**arguments, **inputs}),)
    rival = torch_attention(m, q_shape, k_shape, causal, True)
    name, flops = f"attention_backward{rule}", 10 * pairs * depth
    yield Case(name, k_shape, m.dtype, 2 * size, calls, rival, flops)


def torch_attention(
    m: Maker, q_shape: tuple[int, ...], k_shape: tuple[int, ...], causal: bool, back: bool
) -> Rival:
    """PyTorch's FlashAttention-2 for bfloat16 (there is none for float32: what PyTorch chooses), on
    arrays laid out like ours. A query behind its keys sees them all: not causal.
    """

    def build() -> Callable[[], Any]:
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel

        q, k, v = (torch_normal(m.dtype, *s).transpose(1, 2) for s in (q_shape, k_shape, k_shape))
        for leaf in (q, k, v):
            leaf.requires_grad_(back)

        def forward() -> Any:
            f = torch.nn.functional.scaled_dot_product_attention
            if m.dtype != "bfloat16":
                return f(q, k, v, is_causal=causal)
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                return f(q, k, v, is_causal=causal)

        if not back:
            return forward
        o = forward()
        g = torch_normal(m.dtype, *q_shape).transpose(1, 2)
        return lambda: torch.autograd.grad(o, (q, k, v), g, retain_graph=True)

    return build


# --- Products of matrices ------------------------------------------------------------------------


def matmul(m: Maker, rows: int, inner: int, cols: int) -> Iterator[Case]:
    a, b, c = m.normal(rows, inner), m.normal(inner, cols), m.normal(rows, cols)
    da, db = m.empty(rows, inner), m.empty(inner, cols)
    options = {"transpose_a": False, "transpose_b": False, "bf16": False}
    shapes, flops = (a.shape, b.shape), 2 * rows * inner * cols
    there = {"c": m.empty(rows, cols), "a": a, "b": b, **options}
    yield from product(m, "matmul_forward", there, flops, shapes, lambda a, b: a @ b)
    back = {"da": da, "db": db, "dc": c, "a": a, "b": b, **options}
    yield from product(m, "matmul_backward", back, 2 * flops, shapes, lambda a, b: a @ b)


def linear(m: Maker, rows: int, inner: int, cols: int) -> Iterator[Case]:
    x, w, b, dy = m.normal(rows, inner), m.normal(cols, inner), m.normal(cols), m.normal(rows, cols)
    shapes, flops = (x.shape, w.shape, b.shape), 2 * rows * inner * cols

    def rival(x: Any, w: Any, b: Any) -> Any:
        import torch

        return torch.nn.functional.linear(x, w, b)

    inputs = {"x": x, "w": w, "bf16": False}
    there = {"y": m.empty(rows, cols), "b": b, **inputs}
    yield from product(m, "linear_forward", there, flops, shapes, rival)
    into = {"dx": m.empty(rows, inner), "dw": m.full(0, cols, inner), "db": m.full(0, cols)}
    yield from product(m, "linear_backward", {**into, "dy": dy, **inputs}, 2 * flops, shapes, rival)


def gelu_ffn(m: Maker, rows: int, channels: int, hidden: int) -> Iterator[Case]:
    x, dy, b2 = m.normal(rows, channels), m.normal(rows, channels), m.normal(channels)
    w1, b1, w2 = m.normal(hidden, channels), m.normal(hidden), m.normal(channels, hidden)
    pre, h, dpre = m.normal(rows, hidden), m.empty(rows, hidden), m.empty(rows, hidden)
    shapes, flops = (x.shape, w1.shape, b1.shape, w2.shape, b2.shape), 4 * rows * channels * hidden

    def rival(x: Any, w1: Any, b1: Any, w2: Any, b2: Any) -> Any:
        import torch

        f = torch.nn.functional
        return f.linear(f.gelu(f.linear(x, w1, b1), approximate="tanh"), w2, b2)

    def fused(x: Any, w1: Any, b1: Any, w2: Any, b2: Any) -> Any:
        import torch

        # On a GPU this is cuBLASLt with bias and GELU in its epilogue, which saves nothing for the
        # way back.
        h = torch._addmm_activation(b1, x, w1.t(), use_gelu=True)
        return torch.nn.functional.linear(h, w2, b2)

    inputs = {"x": x, "w1": w1, "w2": w2, "tanh": True, "bf16": False}
    there = {"y": m.empty(rows, channels), "pre": m.empty(rows, hidden), "h": h, "b1": b1, "b2": b2}
    yield from product(m, "gelu_ffn_forward", {**there, **inputs}, flops, shapes, fused)
    into = {"dw1": m.full(0, hidden, channels), "db1": m.full(0, hidden)}
    into |= {"dw2": m.full(0, channels, hidden), "db2": m.full(0, channels)}
    back = {"dx": m.empty(rows, channels), "h": h, "dpre": dpre, "dy": dy, "pre": pre, **into}
    yield from product(m, "gelu_ffn_backward", {**back, **inputs}, 2 * flops, shapes, rival)


def linear_cross_entropy(
    m: Maker, rows: int, channels: int, classes: int, block: int
) -> Iterator[Case]:
    x, targets = m.normal(rows, channels), m.ids(rows, classes)
    w = (m.normal(classes, channels) * channels**-0.5).astype(m.storage())

    def rival() -> Callable[[], Any]:
        import torch

        a = torch_normal(m.dtype, rows, channels).requires_grad_()
        b = torch_normal(m.dtype, classes, channels).requires_grad_()
        t = torch.randint(0, classes, (rows,), device=torch_device())
        f = torch.nn.functional
        return lambda: torch.autograd.grad(f.cross_entropy(f.linear(a, b), t), (a, b))

    arguments = {"loss": m.full(0), "count": m.full(0), "dx": m.empty(rows, channels)}
    arguments |= {"dw": m.full(0, classes, channels), "work": m.empty(block, classes)}
    arguments |= {"x": x, "w": w, "targets": targets, "ignore_index": -100, "smoothing": 0.0}
    arguments |= {"mean": True, "dloss": 1.0, "bf16": False}
    name, flops = "linear_cross_entropy_forward", 6 * rows * channels * classes
    size, shape = 2 * (x.nbytes + w.nbytes), (rows, channels, classes)
    yield Case(name, shape, m.dtype, size, ((name, arguments),), rival, flops, gemm=True)


def product(
    m: Maker,
    kernel: str,
    arguments: dict[str, Any],
    flops: int,
    shapes: tuple[tuple[int, ...], ...],
    rival: Callable[..., Any],
) -> Iterator[Case]:
    """One kernel and its counterpart on tensors of these shapes; a backward kernel is held against
    the way back through it. Every array counts once. In bfloat16 once more by Hopper's path.
    """

    def build() -> Callable[[], Any]:
        import torch

        back = kernel.endswith("_backward")
        tensors = [torch_normal(m.dtype, *s).requires_grad_(back) for s in shapes]
        y = rival(*tensors)
        if not back:
            return lambda: rival(*tensors)
        g = torch.randn_like(y)
        return lambda: torch.autograd.grad(y, tensors, g, retain_graph=True)

    size = sum(a.nbytes for a in arguments.values() if hasattr(a, "nbytes"))
    shape = (*shapes[0], shapes[1][-1] if kernel.startswith("matmul") else shapes[1][0])
    case = Case(kernel, shape, m.dtype, size, ((kernel, arguments),), build, flops, gemm=True)
    yield case
    if m.dtype == "bfloat16":
        hopper = {"BYHAND_GEMM_HOPPER": "1"}
        yield replace(case, name=f"{kernel}, Hopper", environment=hopper, gemm=False)
