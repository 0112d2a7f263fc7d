"""Activation functions, element by element.

    y = f(x),      dx = dy * f'(x)

    step         1 if x >= 0 else 0                   f' = 0
    sigmoid      1 / (1 + exp(-x))                    f' = y (1 - y)
    tanh         tanh(x)                              f' = (1 - y)(1 + y)
    relu         max(x, 0)                            f' = 1 if y > 0 else 0
    leaky_relu   x if x > 0 else negative_slope x     f' = 1 if y > 0 else negative_slope
    elu          x if x > 0 else alpha (exp(x) - 1)   f' = 1 if y > 0 else y + alpha
    selu         1.0507 elu(x) with alpha = 1.67326   f' = 1.0507 if y > 0 else y + 1.75810
    gelu         x Phi(x)                             f' = Phi(x) + x phi(x)
    gelu_tanh    its approximation by tanh, of bias_gelu.py
    silu         x s with s = sigmoid(x)              f' = s (1 + x (1 - s))
    softplus     log(1 + exp(beta x)) / beta          f' = sigmoid(beta x)

Leaky ReLU: Maas et al. (2013), section 2. ELU: Clevert et al. (2016), equation 15. SELU: Klambauer
et al. (2017), equation 2 and the constants below it. GELU: Hendrycks and Gimpel (2016). SiLU:
Elfwing et al. (2018), equations 7 and 9. Softplus is x itself where beta x > threshold, as in
PyTorch; the formula used here is accurate without that limit, and threshold=math.inf removes it.

Saved: y where f' is a function of y, because the next layer keeps y anyway and f' then needs no
exponential; x for gelu, gelu_tanh and silu, where two x can have the same y, and for softplus,
where the threshold applies to x.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from byhand.backend import Array, In, Out, empty, kernels, reference_kernel
from byhand.errors import suggestion
from byhand.ops import check
from byhand.ops.bias_gelu import gelu, gelu_derivative
from byhand.ops.check import Saved
from byhand.ops.declare import op

# The kernels' functions in the order of their numbers. In the kernels elu has a second constant,
# its slope for positive x, and is selu too.
NUMBERED = (
    "step",
    "sigmoid",
    "tanh",
    "relu",
    "leaky_relu",
    "elu",
    "gelu",
    "gelu_tanh",
    "silu",
    "softplus",
)
NAMES = (*NUMBERED, "selu")
FROM_X = frozenset({"gelu", "gelu_tanh", "silu", "softplus"})

_DEFAULTS = {
    "leaky_relu": {"negative_slope": 0.01},
    "elu": {"alpha": 1.0},
    "softplus": {"beta": 1.0, "threshold": 20.0},
}
_SELU_SCALE = 1.0507009873554804934193349852946
_SELU_ALPHA = 1.6732632423543772848170429916717


def value(x: Array, name: str, a: float, b: float) -> Array:
    """f(x) with the constants of the kernels."""
    if name == "step":
        return np.where(np.isnan(x), x, (x >= 0).astype(x.dtype))
    if name == "sigmoid":
        return sigmoid(x)
    if name == "tanh":
        return np.tanh(x)
    if name == "relu":
        return np.maximum(x, 0)
    if name == "leaky_relu":
        return np.where(x > 0, x, a * x)
    if name == "elu":
        return np.where(x > 0, b * x, a * np.expm1(np.minimum(x, 0)))
    if name == "silu":
        return x * sigmoid(x)
    if name == "softplus":
        z = a * x
        return np.where(z > b, x, (np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))) / a)
    return gelu(x, name == "gelu_tanh")


def gradient(dy: Array, saved: Array, name: str, a: float, b: float) -> Array:
    """dy f'(x); saved: x for a function of FROM_X, else y."""
    if name == "step":
        return np.zeros_like(dy)
    if name == "sigmoid":
        return dy * (saved * (1 - saved))
    if name == "tanh":
        return dy * ((1 - saved) * (1 + saved))
    if name == "relu":
        return np.where(saved <= 0, 0, dy)
    if name == "leaky_relu":
        return np.where(saved > 0, dy, a * dy)
    if name == "elu":
        return dy * np.where(saved > 0, b, saved + a)
    if name == "silu":
        s = sigmoid(saved)
        return dy * (s * (1 + saved * (1 - s)))
    if name == "softplus":
        return np.where(a * saved > b, dy, dy * sigmoid(a * saved))
    return dy * gelu_derivative(saved, name == "gelu_tanh")


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), without an overflow for negative x."""
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


@reference_kernel
def activation_forward(y: Out, x: In, function: int, a: float, b: float) -> None:
    y[...] = value(x, NUMBERED[function], a, b)


@reference_kernel
def activation_backward(
    dx: Out, dy: In, x: In | None, y: In | None, function: int, a: float, b: float
) -> None:
    name = NUMBERED[function]
    dx[...] = gradient(dy, x if name in FROM_X else y, name, a, b)


class Rule(NamedTuple):
    """A function as the kernels take it: its number and constants, and whether y is saved."""

    number: int
    a: float
    b: float
    saves_y: bool


def rule_of(owner: str, function: str, **options: Any) -> Rule:
    """The rule for a function of NAMES and its options, None for a default; `owner` begins the
    sentences of errors.

    ValueError for an unknown function, an option that it does not have, and one out of range:
    negative_slope, alpha >= 0 (so that y has the sign of x), beta > 0, threshold not NaN.
    """
    if function not in NAMES:
        expected = f"one of {', '.join(NAMES)}"
        error = check.wrong_value(owner, "function", expected, function)
        raise ValueError(f"{error}{suggestion(function, NAMES)}")
    known = _DEFAULTS.get(function, {})
    given = {name: option for name, option in options.items() if option is not None}
    for name, option in given.items():
        if name not in known:
            raise ValueError(f"{owner}: {function} has no option {name}")
        _CHECKS[name](owner, name, option)
    constants = {name: float(option) for name, option in {**known, **given}.items()}
    a, b = (*constants.values(), 1.0, 1.0)[:2]
    if function == "selu":
        function, a, b = "elu", _SELU_SCALE * _SELU_ALPHA, _SELU_SCALE
    return Rule(NUMBERED.index(function), a, b, function not in FROM_X)


_CHECKS: dict[str, Callable[[str, str, Any], None]] = {
    "negative_slope": check.at_least_0,
    "alpha": check.at_least_0,
    "beta": check.positive,
    "threshold": check.number,
}


# Checking the options takes longer than a small array.
@functools.lru_cache(maxsize=256)
def _rule(
    function: str,
    negative_slope: float | None,
    alpha: float | None,
    beta: float | None,
    threshold: float | None,
) -> Rule:
    return rule_of(
        "activation.forward",
        function,
        negative_slope=negative_slope,
        alpha=alpha,
        beta=beta,
        threshold=threshold,
    )


@op(x="...")
def forward(
    x: Array,
    function: str,
    negative_slope: float | None = None,
    alpha: float | None = None,
    beta: float | None = None,
    threshold: float | None = None,
) -> tuple[Array, Saved]:
    """x (...) -> y of the same shape, saved.

    function: one of NAMES, above. negative_slope (0.01) is of leaky_relu, alpha (1) of elu, beta
    (1) and threshold (20) of softplus. ValueError for an unknown function, which names the nearest
    one, for another function's option and for an option out of range: negative_slope and alpha
    must be at least 0, unlike PyTorch's, so that the sign of y is that of x.
    """
    kernel = kernels(x).activation_forward
    try:
        rule = _rule(function, negative_slope, alpha, beta, threshold)
    except TypeError:  # an argument that cannot be hashed, whose error names it
        rule = _rule.__wrapped__(function, negative_slope, alpha, beta, threshold)
    y = empty(x.shape, x)
    kernel(y, x, rule.number, rule.a, rule.b)
    return y, (y if rule.saves_y else x, rule)


@op(saved={"kept": "..."}, dy="...")
def backward(dy: Array, saved: Saved) -> Array:
    """dy (...) -> dx of the same shape."""
    kept, rule = saved
    x, y = (None, kept) if rule.saves_y else (kept, None)
    dx = empty(kept.shape, kept)
    kernels(kept).activation_backward(dx, dy, x, y, rule.number, rule.a, rule.b)
    return dx
