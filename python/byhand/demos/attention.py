"""Attention: two tokens by hand, and the guide's table of six."""

from __future__ import annotations

import math

import numpy as np

from byhand.demos import demo
from byhand.ops import attention

Q = K = np.eye(2)
V = np.array([[1.0, 2.0], [3.0, 4.0]])
PRINTED = np.array(
    [
        [0.731, 0.046, 0.057, 0.056, 0.045, 0.063],
        [0.040, 0.827, 0.025, 0.027, 0.034, 0.044],
        [0.017, 0.026, 0.841, 0.040, 0.033, 0.040],
        [0.025, 0.030, 0.044, 0.839, 0.030, 0.029],
        [0.089, 0.065, 0.039, 0.063, 0.700, 0.037],
        [0.050, 0.066, 0.036, 0.034, 0.046, 0.765],
    ]
)  # figure 21 of the guide


class Attention(demo.Demo):
    about = "attention of two tokens by hand, and the guide's table of six tokens"
    rows = ("D07",)

    def __init__(self) -> None:
        self.weights, self.output = attend(Q, K, np.eye(2)), attend(Q, K, V)
        self.by_hand = 1 / (1 + math.exp(-1 / math.sqrt(2)))
        # Queries whose scores are the logarithms of the printed numbers.
        self.table = attend(math.sqrt(6) * np.log(PRINTED), np.eye(6), np.eye(6))

    def text(self) -> str:
        rows, columns = PRINTED.sum(1), PRINTED.sum(0)
        return (
            "softmax(Q K^T / sqrt(2)) V with Q = K = [[1, 0], [0, 1]], V = [[1, 2], [3, 4]]\n"
            "Each token has the score 1/sqrt(2) for itself and 0 for the other one.\n"
            f"weight of itself, by hand: 1 / (1 + exp(-1/sqrt(2))) = {self.by_hand:.3f}\n"
            f"weights\n{demo.matrix(self.weights)}\noutput\n{demo.matrix(self.output)}\n\n"
            "The guide's table (figure 21), with the sum of each row and column\n"
            f"{demo.matrix(np.column_stack([PRINTED, rows]))}\n{demo.matrix(columns[None])}\n"
            "The weights of a query sum to 1. Here the rows nearly do (rounding explains 0.003), "
            "and the\ncolumns do not: the numbers are those of a table with a query in each row, "
            "as in the guide's\nformula. Its caption has a key in each row and softmax over the "
            "columns.\n\n"
            "byhand's weights from the logarithms of the printed numbers as scores\n"
            f"{demo.matrix(np.column_stack([self.table, self.table.sum(1)]))}\n"
            f"largest difference to the guide: {abs(self.table - PRINTED).max():.3f}"
        )

    def draw(self, figure: demo.Figure) -> None:
        left, right = figure.subplots(1, 2)
        demo.heat_map(left, PRINTED, "the guide's table", "key", "query")
        demo.heat_map(right, self.table, "byhand, each row sums to 1", "key", "query")


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """One head for one sequence: q (T, D), k and v (S, D) -> (T, D)."""
    o, _ = attention.forward(q[None, :, None], k[None, :, None], v[None, :, None])
    return o[0, :, 0]


Demo = Attention
