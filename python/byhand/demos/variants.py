"""Variants of attention, each beside the plain formula."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from byhand import nn
from byhand.demos import demo
from byhand.ops import attention, linear_attention

T, HEADS, DEPTH = 96, 4, 8


class Variants(demo.Demo):
    about = "efficient variants of attention, each equal to the plain formula"
    rows = ("D10",)

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        q, k, v = rng.standard_normal((3, 1, T, HEADS, DEPTH), dtype=np.float32)
        distance = np.arange(T) - np.arange(T)[:, None]
        slopes = nn.alibi_slopes(HEADS).astype(np.float32)
        ids = np.repeat([[0, 1, 2]], (20, 46, 30), axis=1)
        self.masks = {
            "causal": distance <= 0,
            "sliding window of 9": abs(distance) < 9,
            "block-sparse": nn.block_sparse_mask(T, 8, 3),
            "local-global": nn.local_global_mask(T, 5, (0, 48)),
            "packed sequences": ids[0][:, None] == ids[0],
        }
        options: dict[str, Any] = {
            "causal": {"causal": True},
            "sliding window of 9": {"window": 9},
            "block-sparse": {"mask": self.masks["block-sparse"]},
            "local-global": {"mask": self.masks["local-global"]},
            "packed sequences": {"sequences": ids},
        }
        self.differences = {
            name: _apart(attention.forward(q, k, v, **options[name])[0], dense(q, k, v, None, seen))
            for name, seen in self.masks.items()
        }
        sloped = dense(q, k, v, slopes[:, None, None] * distance)
        self.differences["slopes (ALiBi)"] = _apart(
            attention.forward(q, k, v, slopes=slopes)[0], sloped
        )
        self.differences["linear, causal"] = _apart(
            linear_attention.forward(q, k, v, causal=True)[0], dense_linear(q, k, v, True)
        )

    def text(self) -> str:
        rows = []
        for name, difference in self.differences.items():
            share = self.masks[name].mean() if name in self.masks else 1.0
            seen = "running sums" if name.startswith("linear") else f"{share:.0%}"
            rows.append(f"{name:20} {seen:>12} {difference:12.1e}")
        return (
            f"Attention of {T} positions; the plain formula computes all {T} x {T} scores.\n\n"
            f"{'variant':20} {'pairs seen':>12} {'difference':>12}\n" + "\n".join(rows) + "\n\n"
            "The difference is the largest one between byhand's kernel in float32 and the plain\n"
            "formula in float64. Pairs that are not seen are skipped in tiles of 64 x 64, and no\n"
            "matrix of scores is kept: memory grows with the length, not with its square. Linear\n"
            "attention replaces softmax, so that its time grows with the length too."
        )

    def draw(self, figure: demo.Figure) -> None:
        for axes, (name, seen) in zip(
            figure.subplots(1, len(self.masks)), self.masks.items(), strict=True
        ):
            demo.heat_map(axes, seen.astype(float), name, "key", "query")


def dense(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    added: np.ndarray | None = None,
    seen: np.ndarray | None = None,
) -> np.ndarray:
    """softmax(q kT / sqrt(D) + added) v in float64, of the keys that are seen."""
    q, k, v = (a.astype(np.float64) for a in (q, k, v))
    scores = np.einsum("bthd,bshd->bhts", q, k) / math.sqrt(q.shape[-1])
    e = np.exp(scores if added is None else scores + added)
    if seen is not None:
        e = np.where(seen, e, 0)
    return np.asarray(np.einsum("bhts,bshd->bthd", e / e.sum(-1, keepdims=True), v))


def dense_linear(q: np.ndarray, k: np.ndarray, v: np.ndarray, causal: bool) -> np.ndarray:
    """The same with (elu(q) + 1) (elu(k) + 1)T in place of the exponentials."""
    q, k = (np.where(a > 0, a + 1, np.exp(np.minimum(a.astype(np.float64), 0))) for a in (q, k))
    w = np.einsum("bthd,bshd->bhts", q, k)
    w = np.tril(w) if causal else w
    return np.asarray(np.einsum("bhts,bshd->bthd", w / w.sum(-1, keepdims=True), v))


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(abs(a - b).max())


Demo = Variants
