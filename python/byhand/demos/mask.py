"""Masking: a score of -inf is a probability of 0."""

from __future__ import annotations

import numpy as np

from byhand.demos import demo
from byhand.ops import softmax

T = 4


class Mask(demo.Demo):
    about = "a mask on attention scores: -inf before softmax is 0 after it"
    rows = ("D11",)

    def __init__(self) -> None:
        self.scores = np.random.default_rng(0).standard_normal((T, T), dtype=np.float32)
        self.masked = np.where(np.tri(T, dtype=bool), self.scores, -np.inf).astype(np.float32)
        self.by_hand = softmax.forward(self.masked)[0]
        self.causal = softmax.forward(self.scores, causal=True)[0]
        nothing = np.arange(T)[:, None] != 2  # the third query may see no key
        self.empty, saved = softmax.forward(self.scores, nothing, causal=True)
        self.gradient = softmax.backward(self.scores, saved)

    def text(self) -> str:
        return (
            "Scores of 4 queries (rows) and 4 keys (columns), -inf where the key is later:\n"
            f"{demo.matrix(self.masked)}\n\n"
            "softmax of these scores; each row sums to 1, and the first token sees only itself:\n"
            f"{demo.matrix(self.by_hand)}\n"
            f"ops.softmax with causal=True has the same bits: "
            f"{np.array_equal(self.by_hand, self.causal)}\n\n"
            'The guide masks "below a certain diagonal": that is for its table with a key in each '
            "row.\nWith a query in each row, later keys are above the diagonal.\n\n"
            "If the third query may see no key, its row is 0, not 0/0 = nan:\n"
            f"{demo.matrix(self.empty)}\n"
            f"and so is its gradient: {abs(self.gradient[2]).tolist()}"
        )

    def draw(self, figure: demo.Figure) -> None:
        left, right = figure.subplots(1, 2)
        unmasked = softmax.forward(self.scores)[0]
        demo.heat_map(left, unmasked, "without a mask", "key", "query")
        demo.heat_map(right, self.causal, "masked", "key", "query")


Demo = Mask
