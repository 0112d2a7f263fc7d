"""Linear attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from bench import gpu_case, traffic
from bench.cpu_case import Pair, floats, spec, twin
from bench.gpu_case import Calls, Maker, torch_backward, torch_forward
from bench.lazy import F, torch
from byhand.ops import linear_attention


def by_torch(causal: bool) -> Any:
    """PyTorch has no such op. Not causal: the two products of the paper. Causal: the masked matrix
    of all weights, because running sums would keep a matrix for each position.
    """

    def attend(q: Any, k: Any, v: Any) -> Any:
        q, k, v = (a.transpose(1, 2) for a in (q, k, v))
        q, k = F.elu(q) + 1, F.elu(k) + 1
        if causal:
            w = torch.tril(q @ k.transpose(-1, -2))
            return ((w @ v) / w.sum(-1, keepdim=True)).transpose(1, 2)
        total = q @ k.sum(-2)[..., None]
        return ((q @ (k.transpose(-1, -2) @ v)) / total).transpose(1, 2)

    return attend


def pair(B: int, H: int, T: int, D: int, causal: bool) -> Pair:
    qkv, do = floats(B, T, 3, H, D), floats(B, T, H, D)
    dqkv = np.empty_like(qkv)
    out = tuple(dqkv[:, :, i] for i in range(3))
    parts = [qkv[:, :, i] for i in range(3)]
    return Pair(
        "linear_attention",
        {"B": B, "H": H, "G": H, "T": T, "S": T, "D": D, "E": D},
        lambda: linear_attention.forward(*parts, causal=causal),
        lambda saved: linear_attention.backward(do, saved, out=out),
        {"torch": twin(lambda qkv: by_torch(causal)(*qkv.unbind(2)), qkv)},
        do,
    )


def calls(m: Maker, batch: int, length: int, heads: int, depth: int, causal: bool) -> Iterator[Any]:
    shape = (batch, length, heads, depth)
    q, k, v, o, do, dq, dk, dv = (m.normal(*shape) for _ in range(8))
    norm = m.full(depth * length, batch, heads, length)
    sizes = {"B": batch, "H": heads, "G": heads, "T": length, "S": length, "D": depth, "E": depth}
    inputs = {"q": q, "k": k, "v": v, "o": o, "norm": norm, "causal": causal}
    back = {"do_": do, "dq": dq, "dk": dk, "dv": dv}
    for kernel, more, rival in (
        ("linear_attention_forward", {}, torch_forward),
        ("linear_attention_backward", back, torch_backward),
    ):
        yield gpu_case.Case(
            f"{kernel}{', causal' if causal else ''}",
            shape,
            m.dtype,
            traffic.bytes_moved(kernel, sizes, itemsize=q.dtype.itemsize),
            ((kernel, {**inputs, **more}),),
            rival(m.dtype, by_torch(causal), shape, shape, shape),
            traffic.operations(kernel, sizes),
        )


CPU = [
    spec(
        f"linear attention {B}x{H}x{T}x{D}{', causal' if causal else ''}", pair, B, H, T, D, causal
    )
    for B, H, T, D in ((16, 6, 256, 64), (4, 12, 1024, 64))
    for causal in (False, True)
]
TINY = [spec("linear attention", pair, 1, 1, 1, 16, True)]
GPU = Calls(
    calls,
    small=[(1, 70, 2, 64, True), (2, 33, 1, 40, False)],
    full=[(4, 4096, 16, 64, causal) for causal in (False, True)],
    counted=(2, 67, 3, 37, True),
)
