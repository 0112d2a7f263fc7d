"""Dropout."""

from __future__ import annotations

from byhand.backend import Array
from byhand.nn import mode
from byhand.nn.module import Module
from byhand.ops import check, dropout


class Dropout(Module):
    """Zeroes each element with probability ``p`` in training and scales the rest by 1/(1-p).

    Srivastava et al., 2014. Outside training, or with p = 0, the input itself is returned. Masks
    are drawn from the generator of the model it was built with. ValueError unless 0 <= p < 1.
    """

    def __init__(self, p: float = 0.5):
        check.probability("Dropout", "p", p)
        self.p = p

    @property
    def active(self) -> bool:
        return self.p > 0 and mode.training(self)

    def forward(self, x: Array, add: Array | None = None) -> Array:
        if not self.active:
            self.push(None)
            return x if add is None else x + add
        y, saved = dropout.forward(x, self.p, *self.generator.next(), add)
        self.push(saved)
        return y

    def backward(self, dy: Array) -> Array:
        """The gradient of x; that of ``add`` is dy."""
        saved = self.pop()
        return dy if saved is None else dropout.backward(dy, saved)
