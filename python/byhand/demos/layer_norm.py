"""The residual connection and layer normalisation."""

from __future__ import annotations

import numpy as np

from byhand import nn
from byhand.demos import demo

ROWS = ("an embedding", "a larger one", "a constant one")


class LayerNorm(demo.Demo):
    about = "a residual connection and layer normalisation: mean 0, variance 1"
    rows = ("D15",)

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((3, 6)) * [[1], [50], [0]] + [[0], [7], [3]]
        self.x = x.astype(np.float32)
        norm, linear = nn.LayerNorm(6).build(seed=0), nn.Linear(6, 6).build(seed=0)
        self.normal = norm(self.x)
        self.change = linear(self.normal)
        self.sum = self.x + self.change
        self.dy = rng.standard_normal((3, 6), dtype=np.float32)
        self.through = norm.backward(linear.backward(self.dy))

    def text(self) -> str:
        rows: list[tuple[object, ...]] = [("", "mean", "variance", "mean", "variance", "values")]
        for name, x, y in zip(ROWS, self.x, self.normal, strict=True):
            shown = " ".join(f"{value:6.3f}" for value in y)
            rows.append((name, x.mean(), x.var(), abs(y.mean()), y.var(), shown))
        first = [
            ("x", *self.x[0]),
            ("linear(norm(x))", *self.change[0]),
            ("their sum", *self.sum[0]),
        ]
        gradients = [
            ("gradient of the sum", *self.dy[0]),
            ("through the layer", *self.through[0]),
            ("gradient of x", *(self.dy + self.through)[0]),
        ]
        return (
            "LayerNorm: (x - mean) / sqrt(variance + 1e-5), where the variance divides by the "
            f"number\nof values. Before, and after with the values:\n\n{demo.table(rows)}\n\n"
            "A constant row has variance 0 and gives 0: 1e-5 keeps the root from 0.\n\n"
            "A residual connection adds a layer's result to its input. The first row:\n"
            f"{demo.table(first)}\n\n"
            "The gradient of the sum reaches x unchanged, and what comes back through the layer is "
            f"added:\n{demo.table(gradients)}"
        )

    def draw(self, figure: demo.Figure) -> None:
        left, right = figure.subplots(1, 2)
        for name, x, y in zip(ROWS, self.x, self.normal, strict=True):
            left.plot(x, marker="o", label=name)
            right.plot(y, marker="o", label=name)
        left.set(title="before", xlabel="component")
        right.set(title="after LayerNorm", xlabel="component")
        right.legend()


Demo = LayerNorm
