"""The conventions that layers share.

``forward(x, ..., add=None, again=None)``: ``add`` is a residual added to the result, in the same
pass over memory; its gradient is the gradient of the result. ``again`` is a function that computes
x again for the backward pass: a norm's output is cheaper to compute again than to keep.

``backward(dy)`` returns the gradient of x, or a tuple in the order of the inputs. A norm's
``backward(dy, add=None)`` adds ``add``, the gradient that reaches x through the residual path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from byhand.backend import Array

Again = Callable[[], Array] | None


def taken_again(saved: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a forward pass saved; if the first entry is a function, it is replaced by its result."""
    first = saved[0]
    return (first(), *saved[1:]) if callable(first) else saved
