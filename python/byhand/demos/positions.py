"""Positional encoding: sinusoidal, learned and rotary positions, and how large they are."""

from __future__ import annotations

import math

import numpy as np

from byhand import nn
from byhand.demos import demo
from byhand.nn import init

WIDTH, CONTEXT, LENGTH = 75, 64, 50
HEAD = 8  # the width of a head that is rotated
PLACES = [(0, 0), (1, 0), (5, 4), (9, 8), (7, 4), (12, 9)]  # of a query and a key
# What tokens start as: standard deviation, and the number that they are multiplied by.
STARTS = [(1.0, 1.0), (0.02, 1.0), (WIDTH**-0.5, 1.0), (WIDTH**-0.5, math.sqrt(WIDTH))]


def size(a: np.ndarray) -> float:
    """The root of the mean square."""
    return float(np.sqrt(np.mean(a.astype(np.float64) ** 2)))


class Positions(demo.Demo):
    about = "sinusoidal, learned and rotary positions, and how large they are beside tokens"
    rows = ("D05",)

    def __init__(self) -> None:
        nothing = np.zeros((1, LENGTH, WIDTH), np.float32)
        sinusoidal = nn.SinusoidalPositions(WIDTH)
        learned = nn.LearnedPositions(CONTEXT, WIDTH).build(seed=0)
        with learned.in_inference():
            self.sinusoids = sinusoidal(nothing)[0]
            self.learned = learned(nothing)[0]
            self.far = sinusoidal(nothing[:, :1], start=10_000)[0, 0]
            try:
                learned(nothing[:, :1], start=CONTEXT)
            except ValueError as error:
                self.refusal = str(error)
        self.sizes = [self._beside(std, scale) for std, scale in STARTS]
        self.products = self._products()

    def _beside(self, std: float, scale: float) -> tuple[float, float]:
        """The sizes of token embeddings and of the sinusoids that are added to them."""
        layer = nn.Embedding(1000, WIDTH, scale=scale, weight_init=init.Normal(std)).build(seed=0)
        with layer.in_inference():
            tokens = layer(np.arange(LENGTH))
        return size(tokens), size(self.sinusoids)

    def _products(self) -> list[float]:
        """Products of one query and one key at several places, after their rotation."""
        rng = np.random.default_rng(0)
        q, k = (np.tile(rng.standard_normal(HEAD), (1, 20, 1, 1)) for _ in range(2))
        layer = nn.RotaryPositions(HEAD).inference()
        q, k = layer(q)[0, :, 0], layer(k)[0, :, 0]
        return [float(q[i] @ k[j]) for i, j in PLACES]

    def text(self) -> str:
        shown = [(f"position {p}", *self.sinusoids[p, :6]) for p in (0, 1, 2)]
        sizes = [
            ("tokens N(0, std^2), times", "tokens", "positions"),
            *(
                (f"std {std:.3f}, times {scale:.3f}", f"{tokens:.3f}", f"{places:.3f}")
                for (std, scale), (tokens, places) in zip(STARTS, self.sizes, strict=True)
            ),
        ]
        places = [
            (f"query at {i}, key at {j}", f"distance {i - j}", product)
            for (i, j), product in zip(PLACES, self.products, strict=True)
        ]
        return (
            f"Fixed: nn.SinusoidalPositions({WIDTH}) adds sin(p / 10000^(2i/{WIDTH})) in column 2i "
            "and the cosine in\n"
            f"column 2i + 1; the odd width ends with a sine, in column {WIDTH - 1}.\n"
            f"{demo.table(shown)}\n"
            f"There is no last position: at 10,000 the first columns are {self.far[0]:.3f} and "
            f"{self.far[1]:.3f}.\n\n"
            f"Learned: nn.LearnedPositions({CONTEXT}, {WIDTH}) has a row of {WIDTH} numbers for "
            f"each position of the context.\n"
            f"position {CONTEXT}: {self.refusal}\n\n"
            "Both are added to the vectors of the tokens, so neither may be much larger than the "
            "other.\n"
            f"Roots of the mean squares:\n{demo.table(sizes)}\n"
            "Vaswani et al. (2017, section 3.4) multiply by the root of the width: "
            "nn.Embedding(..., scale=).\n"
            f"Learned positions start as tokens do: {size(self.learned):.3f}\n\n"
            f"Rotary: nn.RotaryPositions({HEAD}) turns queries and keys instead. The product of "
            "the two depends on\ntheir distance only:\n"
            f"{demo.table(places)}"
        )

    def draw(self, figure: demo.Figure) -> None:
        left, right = figure.subplots(1, 2)
        left.imshow(self.sinusoids, cmap="RdBu", aspect="auto", vmin=-1, vmax=1)
        left.set(title="sinusoidal positions", xlabel="column", ylabel="position")
        names = [f"{std:.3f} x {scale:.1f}" for std, scale in STARTS]
        places = np.arange(len(names))
        tokens, positions = zip(*self.sizes, strict=True)
        right.bar(places - 0.2, tokens, 0.4, label="tokens")
        right.bar(places + 0.2, positions, 0.4, label="positions")
        right.set_xticks(places, names, rotation=20)
        right.set(title="sizes of what is added", xlabel="standard deviation x scale")
        right.legend()


Demo = Positions
