"""The training examples in one sentence: inputs and targets shifted by one."""

from __future__ import annotations

import numpy as np

from byhand.data import WindowDataset
from byhand.demos import demo

SENTENCE = "The core innovation of Transformers is the attention."


class Pairs(demo.Demo):
    about = "a sentence as pairs of an input and the word that follows it"
    rows = ("D02",)

    def __init__(self) -> None:
        self.words = SENTENCE.rstrip(".").split()
        # A word's id is its place in the sentence, so that no two are equal.
        ids = np.arange(len(self.words))
        self.window = WindowDataset(ids, context=len(ids) - 1)[0]
        self.pairs = [
            (self.words[: t + 1], self.words[target])
            for t, target in enumerate(self.window["targets"])
        ]

    def text(self) -> str:
        shown = [("input", "target"), *((" ".join(seen), target) for seen, target in self.pairs)]
        ids, targets = (self.window[name].tolist() for name in ("ids", "targets"))
        return (
            f"{SENTENCE}\n\n"
            f"The {len(self.words)} words are one window of training data:\n"
            f"  ids      {ids}\n  targets  {targets}    targets[t] is the id after ids[t]\n\n"
            f"It holds {len(self.pairs)} predictions, each from all words before the target:\n"
            f"{demo.table(shown)}"
        )

    def draw(self, figure: demo.Figure) -> None:
        axes = figure.add_subplot(title="white: seen, blue: the target")
        n = len(self.words)
        cells = np.where(np.tri(n - 1, n, 0), 0.0, np.nan)
        cells[np.arange(n - 1), self.window["targets"]] = 1.0
        axes.imshow(cells, cmap="Blues", vmax=2.0)
        for row, column in zip(*np.nonzero(~np.isnan(cells)), strict=True):
            axes.text(column, row, self.words[column], ha="center", va="center", fontsize=7)
        axes.set(xlabel="place in the sentence", ylabel="prediction")


Demo = Pairs
