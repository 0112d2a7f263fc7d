"""Multi-head attention is several single heads side by side."""

from __future__ import annotations

import numpy as np

from byhand import nn
from byhand.demos import demo
from byhand.ops import attention, linear

B, T, C, H = 2, 5, 12, 3


class Heads(demo.Demo):
    about = "multi-head attention equals single heads, concatenated and multiplied by W_O"
    rows = ("D08",)

    def __init__(self) -> None:
        self.layer = nn.MultiHeadAttention(C, H, bias=False).build(seed=0).inference()
        x = np.random.default_rng(0).standard_normal((B, T, C), dtype=np.float32)
        self.together = self.layer(x)
        self.heads = [self._head(x, h) for h in range(H)]
        self.apart = self.layer.project(np.concatenate(self.heads, axis=-1))
        try:
            nn.MultiHeadAttention(C, 5)
        except ValueError as error:
            self.refusal = str(error)

    def _head(self, x: np.ndarray, h: int) -> np.ndarray:
        """Head h alone, from its own rows of W_Q, W_K and W_V: (B, T, C / H)."""
        weight = self.layer.qkv.weight.compute_value  # (3 C, C): W_Q, W_K, W_V
        D = C // H
        rows = [slice(part * C + h * D, part * C + (h + 1) * D) for part in range(3)]
        q, k, v = (linear.forward(x, weight[r])[0][:, :, None] for r in rows)
        return attention.forward(q, k, v)[0][:, :, 0]

    def text(self) -> str:
        first = [("one layer", *self.together[0, 0, :6]), ("heads", *self.apart[0, 0, :6])]
        return (
            f"MultiHeadAttention({C}, {H}, bias=False), input of shape {(B, T, C)}\n"
            f"a head alone gives {self.heads[0].shape}; {H} concatenated and times W_O: "
            f"{self.apart.shape}\n\n"
            f"the first numbers of the result\n{demo.table(first)}\n"
            f"largest difference: {abs(self.together - self.apart).max():g}\n\n"
            f"5 heads do not divide a width of {C}:\n{self.refusal}"
        )

    def draw(self, figure: demo.Figure) -> None:
        for axes, head, h in zip(figure.subplots(1, H), self.heads, range(H), strict=True):
            axes.imshow(head[0], cmap="RdBu", vmin=-1, vmax=1)
            axes.set(title=f"head {h + 1}", xlabel="component", ylabel="position")


Demo = Heads
