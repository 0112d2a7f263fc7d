"""Scaled dot-product attention."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from bench import gpu_case, traffic
from bench.cpu_case import Case, Pair, Spec, floats, spec, twin
from bench.gpu_case import Calls, Maker, Rival, torch_normal
from bench.lazy import F, torch
from byhand import nn
from byhand.ops import attention


def pair(B: int, H: int, T: int, D: int) -> Pair:
    """Causal: half of the scores are computed, and half are counted."""
    qkv, do = floats(B, T, 3, H, D), floats(B, T, H, D)
    dqkv = np.empty_like(qkv)
    out = tuple(dqkv[:, :, i] for i in range(3))

    def by_torch(qkv):
        q, k, v = (qkv[:, :, i].transpose(1, 2) for i in range(3))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)

    return Pair(
        "attention",
        {"B": B, "H": H, "T": T, "S": T, "D": D},
        lambda: attention.forward(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], causal=True),
        lambda saved: attention.backward(do, saved, out=out),
        {"torch": twin(by_torch, qkv)},
        do,
        given=("causal",),
    )


def with_rule(name: str, rule: str, B: int, H: int, T: int, D: int) -> list[Case]:
    """Attention with one option, both directions. The operations that are counted are those of all
    pairs, so that what is skipped shows as a higher rate.
    """
    q, k, v, do = (floats(B, T, H, D) for _ in range(4))
    at = np.arange(T)
    slopes = nn.alibi_slopes(H).astype(np.float32)
    bias = floats(1, H, T, T)
    options: dict[str, dict[str, Any]] = {
        "slopes": {"slopes": slopes},
        "bias": {"bias": bias},
        "softcap": {"softcap": 30.0},
        "packed": {"sequences": np.broadcast_to(at // (T // 8), (B, T)).copy()},
        "block-sparse": {"mask": nn.block_sparse_mask(T, 64, 4)},
        "local-global": {"mask": nn.local_global_mask(T, 64, [0])},
    }
    added: dict[str, Any] = {"slopes": slopes[:, None, None] * (at - at[:, None]), "bias": bias[0]}
    seen: dict[str, Any] = {"packed": at[:, None] // (T // 8) == at // (T // 8)}
    mask = added.get(rule, seen.get(rule, options[rule].get("mask")))
    if mask is not None:
        mask = torch.from_numpy(mask if mask.dtype == bool else mask.astype(np.float32))

    def by_torch(q: Any, k: Any, v: Any) -> Any:
        q, k, v = (a.transpose(1, 2) for a in (q, k, v))
        if rule == "softcap":
            s = 30 * torch.tanh(q @ k.transpose(-1, -2) / D**0.5 / 30)
            return (torch.softmax(s, -1) @ v).transpose(1, 2)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)

    sizes = {"B": B, "H": H, "G": H, "T": T, "S": T, "D": D}
    return Pair(
        "attention",
        sizes,
        lambda: attention.forward(q, k, v, **options[rule]),
        lambda saved: attention.backward(do, saved),
        {"torch": twin(by_torch, q, k, v)},
        do,
    ).cases(name)


def calls(
    m: Maker, batch: int, keys: int, heads: int, depth: int, causal: bool, queries: int = 0
) -> Iterator[gpu_case.Case]:
    """Self-attention of `keys` positions, or that many behind a few queries: no backward then."""
    q_shape, k_shape = (batch, queries or keys, heads, depth), (batch, keys, heads, depth)
    q, do, o, dq = (m.normal(*q_shape) for _ in range(4))
    k, v, dk, dv = (m.normal(*k_shape) for _ in range(4))
    # The log-sum-exp of equal scores: the backward pass takes any, and these are finite.
    lse = m.full(math.log(keys), batch, heads, q_shape[1])
    inputs = {"q": q, "k": k, "v": v, "scale": depth**-0.5, "causal": causal, "window": 0}
    inputs |= {"softcap": 0.0, "dropout": 0.0, "seed": 0, "offset": 0}
    sizes = dict(B=batch, H=heads, G=heads, T=q_shape[1], S=keys, D=depth)
    # A few queries behind all keys see all of them: no half of the scores is left out.
    halved = causal and not queries
    rule = ", one query" if queries == 1 else ", causal" if causal else ""

    def case(kernel: str, arguments: dict[str, Any], back: bool) -> gpu_case.Case:
        return gpu_case.Case(
            f"{kernel}{rule}",
            k_shape,
            m.dtype,
            traffic.bytes_moved(kernel, sizes, itemsize=q.dtype.itemsize),
            ((kernel, {**arguments, **inputs}),),
            by_torch(m, q_shape, k_shape, halved, back),
            traffic.operations(kernel, sizes, {"causal": halved}),
        )

    work = m.full(0, attention.forward_work_size(q_shape, k_shape))
    yield case("attention_forward", {"o": o, "lse": lse, "work": work}, False)
    if queries:
        return
    work = m.full(0, attention.backward_work_size(q_shape))
    gradients = {"dq": dq, "dk": dk, "dv": dv, "work": work, "do_": do, "o": o, "lse": lse}
    yield case("attention_backward", gradients, True)


def by_torch(
    m: Maker, q_shape: tuple[int, ...], k_shape: tuple[int, ...], causal: bool, back: bool
) -> Rival:
    """PyTorch's FlashAttention-2 for bfloat16, and for float32, which that does not take, what
    PyTorch chooses; on arrays laid out like ours.
    """

    def build() -> Callable[[], Any]:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        q, k, v = (torch_normal(m.dtype, *s).transpose(1, 2) for s in (q_shape, k_shape, k_shape))
        for leaf in (q, k, v):
            leaf.requires_grad_(back)

        def forward() -> Any:
            if m.dtype != "bfloat16":
                return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

        if not back:
            return forward
        o = forward()
        g = torch_normal(m.dtype, *q_shape).transpose(1, 2)
        return lambda: torch.autograd.grad(o, (q, k, v), g, retain_graph=True)

    return build


CPU = [
    spec(f"attention {B}x{H}x{T}x{D}", pair, B, H, T, D)
    for B, H, T, D in (
        (12, 4, 64, 32),
        (64, 6, 64, 64),
        (16, 6, 256, 64),
        (32, 12, 64, 64),
        (16, 12, 256, 64),
        (4, 12, 1024, 64),
        (1, 12, 4096, 64),
    )
]
CPU += [
    Spec(
        f"attention 4x12x1024x64 {rule}",
        partial(with_rule, f"attention 4x12x1024x64 {rule}", rule, 4, 12, 1024, 64),
    )
    for rule in ("slopes", "bias", "softcap", "packed", "block-sparse", "local-global")
]
TINY = [spec("attention", pair, 1, 1, 1, 16)]
GPU = Calls(
    calls,
    small=[
        *((1, 70, 2, 64, causal) for causal in (False, True)),
        (2, 33, 1, 40, True, 1),
    ],
    full=[
        *(
            (16384 // context, context, 2048 // depth, depth, causal)
            for context in (512, 1024, 2048, 4096, 8192, 16384)
            for depth in (64, 128)
            for causal in (False, True)
        ),
        (64, 16384, 16, 128, True, 1),
    ],
    counted=(2, 67, 3, 37, True),
)
