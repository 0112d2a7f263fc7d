"""The embedding table of the guide: 10,000 tokens, 75 numbers for each."""

from __future__ import annotations

import numpy as np

from byhand import nn
from byhand.demos import demo

VOCABULARY, WIDTH = 10_000, 75
IDS = [348, 1978, 634]


class Embedding(demo.Demo):
    about = "an embedding table: the rows of three token ids, and their gradient"
    rows = ("D04",)

    def __init__(self) -> None:
        self.layer = nn.Embedding(VOCABULARY, WIDTH).build(seed=0)
        self.vectors = self.layer(np.array(IDS))
        self.layer.backward(np.ones_like(self.vectors))
        self.learning = np.flatnonzero(self.layer.weight.grad.any(axis=1)).tolist()
        with self.layer.in_inference():
            self.repeated = self.layer(np.array([IDS[0], IDS[0]]))
            try:
                self.layer(np.array([VOCABULARY]))
            except IndexError as error:
                self.refusal = str(error)

    def text(self) -> str:
        rows = [
            (i, *vector[:4], "...", vector[-1]) for i, vector in zip(IDS, self.vectors, strict=True)
        ]
        same = np.array_equal(self.repeated[0], self.repeated[1])
        return (
            f"nn.Embedding({VOCABULARY}, {WIDTH}) has a row of {WIDTH} numbers for each of "
            f"{VOCABULARY:,} token ids.\n\n"
            f"ids {IDS} -> vectors of shape {self.vectors.shape} (the guide: (3, {WIDTH}))\n"
            f"{demo.table(rows)}\n\n"
            f"the same id twice gives the same vector: {same}\n"
            f"rows with a gradient after the backward pass: {self.learning}\n"
            f"id {VOCABULARY}: {self.refusal}"
        )

    def draw(self, figure: demo.Figure) -> None:
        axes = figure.add_subplot(title="vectors of three tokens", xlabel="component", ylabel="id")
        image = axes.imshow(self.vectors, cmap="RdBu", aspect="auto", vmin=-3, vmax=3)
        axes.set_yticks(range(len(IDS)), [str(i) for i in IDS])
        figure.colorbar(image)


Demo = Embedding
