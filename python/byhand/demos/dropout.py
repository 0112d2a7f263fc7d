"""Dropout: random zeros while training, nothing in inference."""

from __future__ import annotations

import numpy as np

from byhand import nn
from byhand.demos import demo

P, N = 0.2, 100_000


class Dropout(demo.Demo):
    about = "dropout while training and in inference"
    rows = ("D12",)

    def __init__(self) -> None:
        layer = nn.Sequential(nn.Dropout(P)).build(seed=0)
        x = np.ones((N,), np.float32)
        self.first, self.second = layer(x), layer(x)
        layer.discard_saved()
        self.inference = layer.inference()(x)

    def text(self) -> str:
        shown = {
            "training, step 1": self.first,
            "training, step 2": self.second,
            "inference": self.inference,
        }
        rows: list[tuple[object, ...]] = [("", "the first numbers", "zeros", "mean")]
        for name, y in shown.items():
            first = " ".join(f"{value:.2f}" for value in y[:10])
            rows.append((name, first, float((y == 0).mean()), float(y.mean())))
        return (
            f"nn.Dropout({P}) of {N:,} ones: a part of {P} is zeroed, and the rest multiplied by\n"
            f"1 / (1 - {P}) = {1 / (1 - P):.2f}, so that the mean stays 1.\n\n"
            f"{demo.table(rows)}\n\n"
            f"numbers kept in both steps: {((self.first > 0) & (self.second > 0)).mean():.3f} "
            f"(independent masks: {(1 - P) ** 2:.3f})"
        )

    def draw(self, figure: demo.Figure) -> None:
        named = {"step 1": self.first, "step 2": self.second, "inference": self.inference}
        for axes, (name, y) in zip(figure.subplots(1, 3), named.items(), strict=True):
            axes.imshow(y[:400].reshape(20, 20), cmap="Blues", vmin=0, vmax=1.5)
            axes.set(title=f"{name}, 400 of the ones")


Demo = Dropout
