"""Ops that are bound by arithmetic: matrix products and what is built on them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from byhand.ops import attention, gelu_ffn, linear, matmul
from cases import ROWS, Pair, Twin, floats, leaf, spec, zeros

BF16 = torch.bfloat16
VOCABULARY = {"gpt2": 50257}  # the others read characters: 65


def autocast(forward: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """How PyTorch computes in bfloat16 from float32 arrays, and byhand too: what it multiplies is
    converted first."""

    def cast() -> torch.Tensor:
        with torch.autocast("cpu", dtype=BF16):
            return forward()

    return cast


def torch_twins(
    forward: Callable[..., torch.Tensor], arrays: list[np.ndarray], bf16: bool
) -> dict[str, Twin]:
    """In bfloat16 there are two: autocast, and arrays that are bfloat16 already and need no
    conversion, as they come out of the layer before under autocast."""
    leaves = [leaf(a) for a in arrays]
    if not bf16:
        return {"torch": Twin(lambda: forward(*leaves), leaves)}
    halves = [leaf(a, BF16) for a in arrays]
    return {
        "torch": Twin(autocast(lambda: forward(*leaves)), leaves),
        "torch, bf16 arrays": Twin(lambda: forward(*halves), halves),
    }


def linear_pair(R: int, K: int, N: int, bf16: bool) -> Pair:
    x, w, b, dy = floats(R, K), floats(N, K), floats(N), floats(R, N)
    dw, db = zeros(w), zeros(b)
    precision = {"bf16": True} if bf16 else {}
    return Pair(
        lambda: linear.forward(x, w, b, **precision),
        lambda saved: linear.backward(dy, saved, dw, db),
        torch_twins(F.linear, [x, w, b], bf16),
        dy,
        flops=2.0 * R * N * K,
        bf16=bf16,
        others=({} if bf16 else {"numpy": lambda: x @ w.T + b}, {}),
    )


def torch_ffn(x, w1, b1, w2, b2) -> torch.Tensor:
    return F.linear(F.gelu(F.linear(x, w1, b1), approximate="tanh"), w2, b2)


def gelu_ffn_pair(R: int, C: int, bf16: bool) -> Pair:
    x, dy = floats(R, C), floats(R, C)
    weights = [floats(4 * C, C), floats(4 * C), floats(C, 4 * C), floats(C)]
    grads = [zeros(p) for p in weights]
    precision = {"bf16": True} if bf16 else {}
    return Pair(
        lambda: gelu_ffn.forward(x, *weights, **precision),
        lambda saved: gelu_ffn.backward(dy, saved, *grads),
        torch_twins(torch_ffn, [x, *weights], bf16),
        dy,
        flops=16.0 * R * C * C,
        bf16=bf16,
    )


def matmul_pair(N: int) -> Pair:
    a, b, dc = floats(N, N), floats(N, N), floats(N, N)
    return Pair(
        lambda: matmul.forward(a, b),
        lambda saved: matmul.backward(dc, saved),
        torch_twins(torch.mm, [a, b], False),
        dc,
        flops=2.0 * N**3,
        others=({"numpy": lambda: a @ b}, {}),
    )


def attention_pair(B: int, H: int, T: int, D: int) -> Pair:
    """Causal: half of the scores are computed, and half are counted."""
    qkv, do = floats(B, T, 3, H, D), floats(B, T, H, D)
    dqkv = np.empty_like(qkv)
    out = tuple(dqkv[:, :, i] for i in range(3))
    t = leaf(qkv)

    def twin() -> torch.Tensor:
        q, k, v = (t[:, :, i].transpose(1, 2) for i in range(3))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)

    return Pair(
        lambda: attention.forward(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], causal=True),
        lambda saved: attention.backward(do, saved, out=out),
        {"torch": Twin(twin, [t])},
        do,
        flops=2.0 * B * H * T * T * D,
        backward_flops=2.5,
    )


def products(bf16: bool) -> list:
    specs, mark = [], " bf16" if bf16 else ""
    for preset, (R, C) in ROWS.items():
        V = VOCABULARY.get(preset, 65)
        for N in (3 * C, C, V):
            specs.append(spec(f"linear{mark} {R}x{C} to {N}", linear_pair, R, C, N, bf16))
        specs.append(spec(f"gelu_ffn{mark} {R}x{C}", gelu_ffn_pair, R, C, bf16))
    return specs


GROUPS = {
    "matrix": products(bf16=False) + [spec(f"matmul {N}", matmul_pair, N) for N in (512, 1024)],
    "bf16": products(bf16=True),
    "attention": [
        spec(f"attention {B}x{H}x{T}x{D}", attention_pair, B, H, T, D)
        for B, H, T, D in (
            (12, 4, 64, 32),
            (64, 6, 64, 64),
            (16, 6, 256, 64),
            (32, 12, 64, 64),
            (16, 12, 256, 64),
            (4, 12, 1024, 64),
            (1, 12, 4096, 64),
        )
    ],
}
