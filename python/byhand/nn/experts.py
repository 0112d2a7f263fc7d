"""A mixture of experts: gated feed-forward layers of which each token uses a few."""

from __future__ import annotations

from typing import Any, NamedTuple

from byhand.backend import Array, empty, xp, zeros
from byhand.nn.activation import function_named
from byhand.nn.dropout import Dropout
from byhand.nn.init import Init
from byhand.nn.linear import Linear
from byhand.nn.module import Module
from byhand.nn.protocol import Again, require_whole_number
from byhand.nn.swiglu import SwiGLU
from byhand.ops import check, softmax

# Matrix products of a few rows add in another order. With this many rows at least, a row's bits do
# not depend on how many other rows an expert gets.
_LEAST_ROWS = 17


class Routing(NamedTuple):
    """What the last forward pass did: counts (E,), how many of its choices each expert got, and
    probabilities (E,), the sum of its probabilities over the rows.
    """

    rows: int
    counts: Array
    probabilities: Array


class MixtureOfExperts(Module):
    """y = sum of w_e expert_e(x) over the top_k experts of each row (+ add).

    Shapes: x, y, add (..., dim). ``router`` gives a score for each of the experts; w is the softmax
    of the scores, of the top_k largest only, divided by their sum (Shazeer et al., 2017,
    "Outrageously large neural networks", section 2.1; Jiang et al., 2024, "Mixtral of experts",
    section 2.1). An expert is a `SwiGLU` and computes the rows that chose it; of equal scores the
    first counts. Gradients reach the router through w.

    Attributes:
        routing: the `Routing` of the last forward pass, for `balance`.
        balance_gradient: (E,), added to the gradient of each row's probabilities in ``backward``.

    ValueError unless 1 <= top_k <= num_experts.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        num_experts: int,
        top_k: int = 2,
        bias: bool = False,
        activation: str = "silu",
        dropout: float = 0.0,
        *,
        up_init: Init | None = None,
        down_init: Init | None = None,
        bias_init: Init | None = None,
    ):
        name = "MixtureOfExperts"
        function_named(name, activation)
        for what, value in (("num_experts", num_experts), ("top_k", top_k)):
            if require_whole_number(name, what, value) < 1:
                raise check.wrong_value(name, what, "at least 1", value)
        if top_k > num_experts:
            raise ValueError(
                f"{name}: top_k must be at most num_experts, got {top_k} and {num_experts}"
            )
        self.top_k = top_k
        self.router = Linear(dim, num_experts, False, weight_init=up_init)
        inits: dict[str, Any] = {"up_init": up_init, "down_init": down_init, "bias_init": bias_init}
        self.experts = [SwiGLU(dim, hidden, bias, activation, **inits) for _ in range(num_experts)]
        self.dropout = Dropout(dropout)
        self.routing: Routing | None = None
        self.balance_gradient: Array | None = None

    def forward(self, x: Array, add: Array | None = None, again: Again = None) -> Array:
        scores = self.router(x, again=again)
        rows = x.reshape(-1, x.shape[-1])
        p, saved = softmax.forward(scores.reshape(len(rows), -1))
        chosen = (-p).argsort(axis=1, kind="stable")[:, : self.top_k]
        top = xp(p).take_along_axis(p, chosen, axis=1)
        total = top.sum(axis=1, keepdims=True)
        weights = top / total
        counts = xp(p).bincount(chosen.reshape(-1), minlength=len(self.experts))
        self.routing = Routing(len(rows), counts, p.sum(axis=0))
        y = zeros(rows.shape, rows)
        parts: list[Any] = []
        for e, expert in enumerate(self.experts):
            where, slot = (chosen == e).nonzero()
            if not len(where):
                parts.append(None)
                continue
            own = _padded(rows[where], len(rows))
            result = expert(own)[: len(where)]
            y[where] += weights[where, slot, None] * result
            parts.append((where, slot, result))
        self.push((saved, chosen, weights, total, parts))
        return self.dropout(y.reshape(x.shape), add)

    def backward(self, dy: Array) -> Array:
        saved, chosen, weights, total, parts = self.pop()
        d = self.dropout.backward(dy).reshape(-1, dy.shape[-1])
        dx, dweights = zeros(d.shape, d), zeros(weights.shape, weights)
        for expert, part in zip(self.experts, parts, strict=True):
            if part is None:
                continue
            where, slot, result = part
            of_rows = d[where]
            dweights[where, slot] = (of_rows * result).sum(axis=1)
            back = expert.backward(_padded(weights[where, slot, None] * of_rows, len(d)))
            dx[where] += back[: len(where)]
        # w = top / total
        dtop = (dweights - (dweights * weights).sum(axis=1, keepdims=True)) / total
        dp = zeros(saved[0].shape, d)
        xp(d).put_along_axis(dp, chosen, dtop, axis=1)
        if self.balance_gradient is not None:
            dp += self.balance_gradient
        dscores = softmax.backward(dp, saved)
        return self.router.backward(dscores.reshape(*dy.shape[:-1], -1)) + dx.reshape(dy.shape)

    def flops(self, x: tuple[int, ...], *shapes: Any) -> tuple[int, int]:
        return 0, 0  # the router and the experts count their own


def balance(routings: list[Routing]) -> tuple[Array, list[Array]]:
    """The load-balance loss of one pass through several mixtures, a 0-d array, and for each of them
    the gradient (E,) with respect to the probabilities of each of its rows.

    E sum over the experts e of f_e P_e, with f_e the number of choices of e per row and P_e the
    mean of its probability, over the rows of all mixtures (Fedus et al., 2021, "Switch
    transformers", equations 4 to 6). It is top_k where all experts get the same.
    """
    rows = sum(r.rows for r in routings)
    experts = len(routings[0].counts)
    shares = sum(r.counts for r in routings) / rows
    means = sum(r.probabilities for r in routings) / rows
    gradient = (experts / rows * shares).astype(routings[0].probabilities.dtype)
    return (experts * (shares * means).sum()).astype(gradient.dtype), [gradient] * len(routings)


def _padded(rows: Array, whole: int) -> Array:
    """The rows with zeros below, if they are a few of many."""
    count = len(rows)
    if count >= _LEAST_ROWS or whole == 1:
        return rows
    made = empty((_LEAST_ROWS, rows.shape[1]), rows)
    made[:count], made[count:] = rows, 0
    return made
