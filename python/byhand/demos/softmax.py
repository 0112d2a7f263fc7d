"""Softmax: its derivative, what leaves it unchanged, and large inputs."""

from __future__ import annotations

import numpy as np

from byhand.demos import demo
from byhand.ops import log_softmax, softmax

Z = np.array([2.0, 1.0, 0.1])
LARGE = np.array([1e4, 0.0, -1e4])
H = 1e-5  # step of the finite differences


class Softmax(demo.Demo):
    about = "softmax: probabilities from scores, its derivative, and large inputs"
    rows = ("D06",)

    def __init__(self) -> None:
        self.p, saved = softmax.forward(Z)
        self.jacobian = np.array([softmax.backward(row, saved) for row in np.eye(3)])
        self.formula = self.p[:, None] * (np.eye(3) - self.p)
        moved = [(of(Z + step) - of(Z - step)) / (2 * H) for step in H * np.eye(3)]
        self.differences = np.array(moved).T
        self.shifted, self.scaled = of(Z + 100), of(2 * Z)
        self.large, self.log_large = of(LARGE), log_softmax.forward(LARGE)[0]
        with np.errstate(all="ignore"):
            self.naive = np.exp(LARGE) / np.exp(LARGE).sum()
            self.naive_log = np.log(self.large)

    def text(self) -> str:
        of_formula = abs(self.jacobian - self.formula).max()
        of_differences = abs(self.jacobian - self.differences).max()
        properties = [
            ("z", *Z, "sum of softmax"),
            ("softmax(z)", *self.p, self.p.sum()),
            ("softmax(z + 100)", *self.shifted, self.shifted.sum()),
            ("softmax(2 z)", *self.scaled, self.scaled.sum()),
        ]
        large = [
            ("z", *LARGE),
            ("exp(z) / sum exp(z)", *self.naive),
            ("ops.softmax", *self.large),
            ("log(softmax(z))", *self.naive_log),
            ("ops.log_softmax", *self.log_large),
        ]
        return (
            f"{demo.table(properties)}\n\n"
            "A constant added to z changes nothing: softmax is invariant to shifts. A factor does\n"
            'change it; where the guide says "scale invariant" it means the shift.\n\n'
            "The derivative of p_i by z_j, from ops.softmax.backward:\n"
            f"{demo.matrix(self.jacobian)}\n"
            f"largest difference to p_i (delta_ij - p_j): {of_formula:.0e}, "
            f"to finite differences: {of_differences:.0e}\n\n"
            f"Large inputs, where exp(z) overflows:\n{demo.table(large)}"
        )

    def draw(self, figure: demo.Figure) -> None:
        left, right = figure.subplots(1, 2)
        places = np.arange(3)
        named = {"z": self.p, "z + 100": self.shifted, "2 z": self.scaled}
        for i, (name, p) in enumerate(named.items()):
            left.bar(places + 0.25 * (i - 1), p, 0.25, label=f"softmax({name})")
        left.set(title="probabilities", xticks=places, xlabel="i")
        left.legend()
        image = right.imshow(self.jacobian, cmap="RdBu", vmin=-0.3, vmax=0.3)
        right.set(title="derivative of p_i by z_j", xlabel="j", ylabel="i")
        right.set(xticks=places, yticks=places)
        figure.colorbar(image)


def of(z: np.ndarray) -> np.ndarray:
    return softmax.forward(z)[0]


Demo = Softmax
