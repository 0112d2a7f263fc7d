"""Ops that are bound by memory: each element costs less to compute than to fetch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from byhand.ops import (
    adamw,
    bias_gelu,
    cross_entropy,
    dropout,
    embedding,
    grad_norm,
    layernorm,
    log_softmax,
    rmsnorm,
    softmax,
)
from cases import LARGE, RNG, ROWS, Case, Pair, Spec, Twin, floats, leaf, spec, zeros

SIZES = [*ROWS.values(), LARGE]
PARAMETERS = {"tiny": 816_640, "guide": 10_690_944, "gpt2": 124_439_808}


def numpy_softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def numpy_log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def numpy_layernorm(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-5) * w + b


def numpy_bias_gelu(x: np.ndarray, b: np.ndarray) -> np.ndarray:
    x = x + b
    return 0.5 * x * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x * x * x)))


def layernorm_pair(R: int, C: int) -> Pair:
    x, w, b, dy = floats(R, C), floats(C), floats(C), floats(R, C)
    dw, db = zeros(w), zeros(b)
    tx, tw, tb = leaf(x), leaf(w), leaf(b)
    return Pair(
        lambda: layernorm.forward(x, w, b),
        lambda saved: layernorm.backward(dy, saved, dw, db),
        {"torch": Twin(lambda: F.layer_norm(tx, (C,), tw, tb), [tx, tw, tb])},
        dy,
        bytes=(2.0 * x.nbytes, 3.0 * x.nbytes),
        others=({"numpy": lambda: numpy_layernorm(x, w, b)}, {}),
    )


def rmsnorm_pair(R: int, C: int) -> Pair:
    x, w, dy = floats(R, C), floats(C), floats(R, C)
    dw = zeros(w)
    tx, tw = leaf(x), leaf(w)
    return Pair(
        lambda: rmsnorm.forward(x, w),
        lambda saved: rmsnorm.backward(dy, saved, dw),
        {"torch": Twin(lambda: F.rms_norm(tx, (C,), tw, 1e-5), [tx, tw])},
        dy,
        bytes=(2.0 * x.nbytes, 3.0 * x.nbytes),
        others=({"numpy": lambda: x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * w}, {}),
    )


def residual_case(name: str, norm: Any, theirs: Any, R: int, C: int) -> list[Case]:
    """The norm of a residual sum, the sum written too."""
    x, add, w = floats(R, C), floats(R, C), floats(C)
    tx, ta, tw = (torch.from_numpy(a) for a in (x, add, w))

    def apart() -> Any:
        s = x + add
        return s, norm.forward(s, w)

    def torchs() -> Any:
        s = tx + ta
        return s, theirs(s, (C,), tw)

    return [
        Case(
            name,
            lambda: norm.forward_add(x, add, w),
            {"torch": torchs, "in two steps": apart},
            bytes=4.0 * x.nbytes,
            stream="triad",
        )
    ]


def softmax_pair(R: int, C: int) -> Pair:
    x, dy = floats(R, C), floats(R, C)
    tx = leaf(x)
    return Pair(
        lambda: softmax.forward(x),
        lambda saved: softmax.backward(dy, saved),
        {"torch": Twin(lambda: F.softmax(tx, -1), [tx])},
        dy,
        bytes=(2.0 * x.nbytes, 3.0 * x.nbytes),
        others=({"numpy": lambda: numpy_softmax(x)}, {}),
    )


def log_softmax_pair(R: int, C: int) -> Pair:
    x, dy = floats(R, C), floats(R, C)
    tx = leaf(x)
    return Pair(
        lambda: log_softmax.forward(x),
        lambda saved: log_softmax.backward(dy, saved),
        {"torch": Twin(lambda: F.log_softmax(tx, -1), [tx])},
        dy,
        bytes=(2.0 * x.nbytes, 3.0 * x.nbytes),
        others=({"numpy": lambda: numpy_log_softmax(x)}, {}),
    )


def bias_gelu_pair(R: int, C: int) -> Pair:
    x, b, dy = floats(R, C), floats(C), floats(R, C)
    db = zeros(b)
    tx, tb = leaf(x), leaf(b)
    return Pair(
        lambda: bias_gelu.forward(x, b),
        lambda saved: bias_gelu.backward(dy, saved, db),
        {"torch": Twin(lambda: F.gelu(tx + tb, approximate="tanh"), [tx, tb])},
        dy,
        bytes=(2.0 * x.nbytes, 3.0 * x.nbytes),
        others=({"numpy": lambda: numpy_bias_gelu(x, b)}, {}),
    )


def dropout_pair(R: int, C: int) -> Pair:
    x, dy = floats(R, C), floats(R, C)
    tx = leaf(x)
    return Pair(
        lambda: dropout.forward(x, 0.2, seed=1, offset=0),
        lambda saved: dropout.backward(dy, saved),
        {"torch": Twin(lambda: F.dropout(tx, 0.2), [tx])},
        dy,
        bytes=(2.0 * x.nbytes, 2.0 * x.nbytes),
        streams=("copy", "copy"),
    )


def cross_entropy_pair(R: int, V: int) -> Pair:
    logits, targets = floats(R, V), RNG.integers(0, V, R)
    tl, tt = leaf(logits), torch.from_numpy(targets)
    one = np.ones((), np.float32)
    return Pair(
        lambda: cross_entropy.forward(logits, targets),
        lambda saved: cross_entropy.backward(one, saved),
        {"torch": Twin(lambda: F.cross_entropy(tl, tt), [tl])},
        one,
        bytes=(1.0 * logits.nbytes, 2.0 * logits.nbytes),
        streams=("read", "copy"),
    )


def embedding_pair(R: int, V: int, C: int) -> Pair:
    """Our backward pass adds into the table's gradient, as PyTorch's index_add_ does; its autograd
    writes a new gradient of the whole table. The traffic is that of the rows looked up."""
    ids, w, dy = RNG.integers(0, V, R), floats(V, C), floats(R, C)
    dw, numpy_dw = zeros(w), zeros(w)
    ti, tw = torch.from_numpy(ids), leaf(w)
    twin = Twin(lambda: F.embedding(ti, tw), [tw])
    torch_dw, torch_dy = torch.zeros_like(tw), torch.from_numpy(dy)
    backward = {
        "torch": lambda: torch_dw.index_add_(0, ti, torch_dy),
        "torch's autograd": twin.runs(dy)[1],
        "numpy": lambda: np.add.at(numpy_dw, ids, dy),
    }
    return Pair(
        lambda: embedding.forward(ids, w),
        lambda saved: embedding.backward(dy, saved, dw),
        {"torch": twin},
        dy,
        bytes=(2.0 * dy.nbytes, 3.0 * dy.nbytes),
        streams=("copy", "update"),
        others=({"numpy": lambda: w[ids]}, backward),
    )


def adamw_case(name: str, N: int) -> list[Case]:
    w, g = floats(N), floats(N)
    m, v = zeros(w), zeros(w)
    p = torch.from_numpy(w).clone().requires_grad_(True)
    p.grad = torch.from_numpy(g).clone()
    common = dict(betas=(0.9, 0.99), eps=1e-8)
    twin = torch.optim.AdamW([p], lr=1e-3, weight_decay=0.1, **common, fused=True)
    settings = dict(
        lr=np.full(1, 1e-3, np.float32),
        weight_decay=np.full(1, 0.1, np.float32),
        bounds=np.array([N]),
        t=np.zeros((), np.int64),
    )
    return [
        Case(
            name,
            lambda: adamw.step(w, m, v, g, **settings, **common),
            {"torch": twin.step},
            bytes=28.0 * N,
            stream="update",
        )
    ]


def norm_case(name: str, N: int) -> list[Case]:
    g = floats(N)
    t = torch.from_numpy(g)
    return [
        Case(
            name,
            lambda: grad_norm.norm(g),
            {"torch": lambda: torch.linalg.vector_norm(t), "numpy": lambda: np.linalg.norm(g)},
            bytes=4.0 * N,
            stream="read",
        )
    ]


def clip_case(name: str, N: int) -> list[Case]:
    g = floats(N)
    t, norm = torch.from_numpy(g).clone(), np.ones((), np.float32)
    factor = np.float32(1 - 1e-6)  # a factor of 1 would be skipped, a small one ends in denormals

    def multiply() -> None:
        np.multiply(g, factor, out=g)

    return [
        Case(
            name,
            lambda: grad_norm.clip(g, norm, float(factor)),
            {"torch": lambda: t.mul_(float(factor)), "numpy": multiply},
            bytes=8.0 * N,
            stream="update",
        )
    ]


def whole(name: str, build, N: int) -> Spec:
    return Spec(name, lambda: build(name, N), parts=("",))


def residual_spec(name: str, norm: Any, theirs: Any, R: int, C: int) -> Spec:
    name = f"residual + {name} {R}x{C}"
    return Spec(name, lambda: residual_case(name, norm, theirs, R, C), parts=("",))


GROUPS = {
    "rows": [
        spec(f"{name} {R}x{C}", pair, R, C)
        for name, pair in (
            ("layernorm", layernorm_pair),
            ("rmsnorm", rmsnorm_pair),
            ("softmax", softmax_pair),
            ("log_softmax", log_softmax_pair),
            ("bias_gelu", bias_gelu_pair),
            ("dropout", dropout_pair),
        )
        for R, C in SIZES
    ],
    "residual": [
        residual_spec(name, norm, theirs, R, C)
        for name, norm, theirs in (
            ("layernorm", layernorm, F.layer_norm),
            ("rmsnorm", rmsnorm, F.rms_norm),
        )
        for R, C in SIZES
    ],
    "loss": [
        spec(f"cross_entropy {R}x{V}", cross_entropy_pair, R, V)
        for R, V in ((768, 65), (4096, 65), (16384, 65), (256, 50257), (1024, 50257))
    ],
    "table": [
        spec(f"embedding {R} of {V}x{C}", embedding_pair, R, V, C)
        for R, V, C in (
            (768, 65, 128),
            (4096, 65, 384),
            (16384, 65, 384),
            (256, 50257, 768),
            (32768, 50257, 768),
        )
    ],
    "optimizer": [
        whole(f"{name} {N}", build, N)
        for name, build in (("adamw", adamw_case), ("grad_norm", norm_case), ("clip", clip_case))
        for N in PARAMETERS.values()
    ],
}
