"""Activation functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from byhand import backend
from byhand.backend import Array
from byhand.errors import suggestion
from byhand.nn.module import Module
from byhand.ops import activation, bias_gelu, check, softmax


class GELU(Module):
    """y = x Φ(x), or with ``approximate="tanh"`` its tanh approximation (Hendrycks & Gimpel, 2016).

    Shapes: x, y (...). Raises ValueError for any other value of ``approximate``.
    """

    def __init__(self, approximate: Literal["none", "tanh"] = "none"):
        if approximate not in ("none", "tanh"):
            raise check.wrong_value("GELU", "approximate", "'none' or 'tanh'", approximate)
        self.approximate: Literal["none", "tanh"] = approximate

    def forward(self, x: Array) -> Array:
        y, saved = bias_gelu.forward(x, None, self.approximate)
        self.push(saved)
        return y

    def backward(self, dy: Array) -> Array:
        return bias_gelu.backward(dy, self.pop())


class _Elementwise(Module):
    """A function of ``ops.activation`` with the options that a subclass gives."""

    def _apply(self, x: Array, function: str, **options: float) -> Array:
        y, saved = activation.forward(x, function, **options)
        self.push(saved)
        return y

    def backward(self, dy: Array) -> Array:
        return activation.backward(dy, self.pop())


class Step(_Elementwise):
    """y = 1 where x >= 0, else 0. Its gradient is 0 everywhere. Shapes: x, y (...)."""

    def forward(self, x: Array) -> Array:
        return self._apply(x, "step")


class Sigmoid(_Elementwise):
    """y = 1 / (1 + exp(-x)). Shapes: x, y (...)."""

    def forward(self, x: Array) -> Array:
        return self._apply(x, "sigmoid")


class Tanh(_Elementwise):
    """y = tanh(x). Shapes: x, y (...)."""

    def forward(self, x: Array) -> Array:
        return self._apply(x, "tanh")


class ReLU(_Elementwise):
    """y = max(x, 0). Its gradient at 0 is 0, as in PyTorch. Shapes: x, y (...)."""

    def forward(self, x: Array) -> Array:
        return self._apply(x, "relu")


class LeakyReLU(_Elementwise):
    """y = x where x > 0, else ``negative_slope`` x (Maas et al., 2013).

    Shapes: x, y (...). Raises ValueError unless negative_slope >= 0: PyTorch takes negative slopes
    too, but then the backward pass cannot be computed from y, which is what is kept here.
    """

    def __init__(self, negative_slope: float = 0.01):
        activation.rule_of("LeakyReLU", "leaky_relu", negative_slope=negative_slope)
        self.negative_slope = negative_slope

    def forward(self, x: Array) -> Array:
        return self._apply(x, "leaky_relu", negative_slope=self.negative_slope)


class ELU(_Elementwise):
    """y = x where x > 0, else ``alpha`` (exp(x) - 1) (Clevert et al., 2016, equation 15).

    Shapes: x, y (...). Raises ValueError unless alpha >= 0: PyTorch takes a negative alpha too, but
    then the backward pass cannot be computed from y, which is what is kept here.
    """

    def __init__(self, alpha: float = 1.0):
        activation.rule_of("ELU", "elu", alpha=alpha)
        self.alpha = alpha

    def forward(self, x: Array) -> Array:
        return self._apply(x, "elu", alpha=self.alpha)


class SELU(_Elementwise):
    """y = 1.0507 ELU(x) with alpha = 1.67326, in more digits (Klambauer et al., 2017, equation 2).

    Shapes: x, y (...).
    """

    def forward(self, x: Array) -> Array:
        return self._apply(x, "selu")


class SiLU(_Elementwise):
    """y = x sigmoid(x) (Elfwing et al., 2018, equation 7), or swish. Shapes: x, y (...)."""

    def forward(self, x: Array) -> Array:
        return self._apply(x, "silu")


class Softplus(_Elementwise):
    """y = log(1 + exp(beta x)) / beta, and y = x where beta x > ``threshold``, as in PyTorch.

    Shapes: x, y (...). Raises ValueError unless beta > 0, and for a threshold of NaN.
    """

    def __init__(self, beta: float = 1.0, threshold: float = 20.0):
        activation.rule_of("Softplus", "softplus", beta=beta, threshold=threshold)
        self.beta, self.threshold = beta, threshold

    def forward(self, x: Array) -> Array:
        return self._apply(x, "softplus", beta=self.beta, threshold=self.threshold)


class Softmax(Module):
    """y = exp(x) / (sum of exp(x) along ``dim``) (Bridle, 1990, equation 3).

    Shapes: x, y (...) with at least one axis. ``dim`` is -1 where PyTorch's default depends on the
    number of axes. Any other axis than the last is copied to the end and back. Raises ValueError
    when x does not have this axis, TypeError when ``dim`` is not an integer.
    """

    def __init__(self, dim: int = -1):
        self.dim = require_axis("Softmax", "dim", dim)

    def _last(self, x: Array) -> Array:
        """x with the axis `dim` and the last one exchanged, without gaps."""
        at = axis_of("Softmax", "dim", self.dim, x)
        return x if at == x.ndim - 1 else x.swapaxes(at, -1).copy()

    def forward(self, x: Array) -> Array:
        y, saved = softmax.forward(self._last(x))
        self.push(saved)
        return self._last(y)

    def backward(self, dy: Array) -> Array:
        return self._last(softmax.backward(self._last(dy), self.pop()))


def require_axis(layer: str, name: str, axis: Any) -> int:
    """The axis, if it is an integer; else the TypeError of a layer's constructor."""
    if isinstance(axis, bool) or not hasattr(axis, "__index__"):
        raise TypeError(f"{layer}: {name} must be a whole number, got {axis!r}")
    return int(axis)


def axis_of(layer: str, name: str, axis: int, x: Array) -> int:
    """The axis counted from the front; the error of an x that does not have it."""
    if not backend.is_array(x):
        raise check.not_an_array(layer, "x", x)
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"{layer}: x must have an axis {name} = {axis}, got shape {x.shape}")
    return axis % x.ndim


# The activations that a model or a layer takes by name: PyTorch's names of the functions, and
# Hugging Face's two for the approximation of GELU -> the name in ops.activation.
NAMES: dict[str, str] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    **{name: name for name in activation.NAMES if name not in ("gelu", "gelu_tanh")},
}

_LAYERS: dict[str, Callable[[], Module]] = {
    "step": Step,
    "sigmoid": Sigmoid,
    "tanh": Tanh,
    "relu": ReLU,
    "leaky_relu": LeakyReLU,
    "elu": ELU,
    "selu": SELU,
    "gelu": GELU,
    "gelu_tanh": lambda: GELU("tanh"),
    "silu": SiLU,
    "softplus": Softplus,
}


def function_named(owner: str, name: str) -> str:
    """The function of ops.activation that has this one of NAMES. ValueError, which names the
    nearest one, if none has; `owner` begins the sentence.
    """
    if not isinstance(name, str) or name not in NAMES:
        error = check.wrong_value(owner, "activation", f"one of {', '.join(NAMES)}", name)
        raise ValueError(f"{error}{suggestion(name, NAMES)}")
    return NAMES[name]


def layer_named(owner: str, name: str) -> Module:
    """The layer of that function, with the defaults of its options."""
    return _LAYERS[function_named(owner, name)]()
