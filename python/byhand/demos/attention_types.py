"""Self-attention, cross-attention and masked attention."""

from __future__ import annotations

import numpy as np

from byhand import nn
from byhand.demos import demo

C, HEADS = 8, 2


class AttentionTypes(demo.Demo):
    about = "self-, cross- and masked attention: which positions a token can change"
    rows = ("D09",)

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((1, 5, C), dtype=np.float32)
        memory = rng.standard_normal((1, 3, C), dtype=np.float32)
        plain, masked = (
            nn.MultiHeadAttention(C, HEADS, causal=causal).build(seed=0).inference()
            for causal in (False, True)
        )
        self.results = {
            "self": plain(x),
            "cross": plain(x, memory),
            "masked": masked(x),
        }
        changed = x.copy()
        changed[:, -1] += 1  # the last of the five tokens
        self.moved = {
            "self": self._rows_that_differ(plain(x), plain(changed)),
            "cross": self._rows_that_differ(plain(x, memory), plain(changed, memory)),
            "masked": self._rows_that_differ(masked(x), masked(changed)),
        }

    def _rows_that_differ(self, before: np.ndarray, after: np.ndarray) -> list[int]:
        """The positions of which at least one bit differs, counted from 1."""
        return (np.flatnonzero((before != after).any(axis=(0, 2))) + 1).tolist()

    def text(self) -> str:
        rows = [
            ("attention", "queries from", "keys and values from", "result", "positions changed"),
            ("self", "x, 5 tokens", "x", str(self.results["self"].shape), self.moved["self"]),
            ("cross", "x", "memory, 3 tokens", str(self.results["cross"].shape),
             self.moved["cross"]),
            ("masked", "x", "x, none later", str(self.results["masked"].shape),
             self.moved["masked"]),
        ]  # fmt: skip
        return (
            f"{demo.table(tuple(str(cell) for cell in row) for row in rows)}\n\n"
            "The last column: which positions of the result have another bit after token 5 of x "
            "was\nchanged. With a mask the positions before it do not depend on it."
        )

    def draw(self, figure: demo.Figure) -> None:
        for axes, (name, y) in zip(figure.subplots(1, 3), self.results.items(), strict=True):
            axes.imshow(y[0], cmap="RdBu", vmin=-1, vmax=1)
            axes.set(title=f"{name}-attention", xlabel="component", ylabel="position")


Demo = AttentionTypes
