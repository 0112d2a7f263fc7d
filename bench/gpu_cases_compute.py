"""The calls of bench/gpu.py whose time goes into products of matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from byhand.ops.attention import backward_room, forward_room
from gpu_case import Case, Maker, Rival, torch_normal


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
