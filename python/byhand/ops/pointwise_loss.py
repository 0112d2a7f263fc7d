"""Losses of each element of a prediction: squared error, Huber's, and binary cross-entropy.

    losses = l(x, t),      loss = sum losses, divided by their number for the mean
    dx     = (dlosses + dloss / number) l'(x, t)

    squared  a d^2,  d = x - t                                    l' = 2 a d
    huber    d^2 / 2 if |d| <= a else a (|d| - a / 2)             l' = d between -a and a
    bce      (1 - t) log(1 + exp(x)) + a t log(1 + exp(-x))       l' = (1 - t) s(x) - a t s(-x)

The constant a is a factor, Huber's delta, or the weight of the positive class; s(x) is the sigmoid
1 / (1 + exp(-x)), and x of bce is a logit. Huber, "Robust estimation of a location parameter"
(1964), his function rho; Bishop, "Pattern recognition and machine learning" (2006), equation 4.90.
Saved: prediction, target, function, a, reduction.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import numpy as np

from byhand.backend import Array, In, Out, empty, kernels, reference_kernel, statistics
from byhand.ops import check
from byhand.ops.activation import sigmoid
from byhand.ops.check import Reduction, Saved
from byhand.ops.declare import op

Function: TypeAlias = Literal["squared", "huber", "bce"]
NAMES = get_args(Function)  # in the order of the kernels' numbers


def value(x: Array, t: Array, name: str, a: float) -> Array:
    """l(x, t)"""
    d = np.abs(x - t)
    if name == "squared":
        return a * (d * d)
    if name == "huber":
        return np.where(d > a, a * (d - a / 2), d * d / 2)
    curve = np.log1p(np.exp(-np.abs(x)))
    return (1 - t) * (np.maximum(x, 0) + curve) + a * t * (np.maximum(-x, 0) + curve)


def slope(x: Array, t: Array, name: str, a: float) -> Array:
    """l'(x, t)"""
    if name == "squared":
        return 2 * a * (x - t)
    if name == "huber":
        return np.clip(x - t, -a, a)
    return (1 - t) * sigmoid(x) - a * t * sigmoid(-x)


@reference_kernel
def pointwise_loss_forward(
    loss: Out[np.float32] | None,
    losses: Out[np.float32] | None,
    prediction: In,
    target: In,
    function: int,
    a: float,
    mean: bool,
) -> None:
    each = value(prediction, target, NAMES[function], a)
    if losses is not None:
        losses[...] = each
    if loss is not None:
        loss[...] = each.sum(dtype=np.float64) / (max(prediction.size, 1) if mean else 1)


@reference_kernel
def pointwise_loss_backward(
    dx: Out,
    dloss: In[np.float32] | None,
    dlosses: In[np.float32] | None,
    prediction: In,
    target: In,
    function: int,
    a: float,
    mean: bool,
) -> None:
    k = 0 if dloss is None else dloss / max(prediction.size, 1) if mean else dloss
    dx[...] = (k if dlosses is None else k + dlosses) * slope(
        prediction, target, NAMES[function], a
    )


@op(prediction="...", target="...")
def forward(
    prediction: Array,
    target: Array,
    function: Function,
    a: float = 1.0,
    reduction: Reduction = "mean",
) -> tuple[Array, Saved]:
    """prediction, target (...) -> the loss, a 0-d array, or with reduction "none" the losses (...);
    and saved.

    a: the constant of the function, above. ValueError for a shape, a function, a reduction, an `a`
    that is not greater than 0, and a target of bce outside 0..1 (numpy arrays only); TypeError for
    a dtype. The mean of no elements is 0.
    """
    where = "pointwise_loss.forward"
    kernel = kernels(prediction).pointwise_loss_forward
    if function not in NAMES:
        raise check.wrong_value(where, "function", f"one of {', '.join(NAMES)}", function)
    check.positive(where, "a", a)
    check.reduction(where, reduction)
    if function == "bce":
        check.all_in_0_to_1(where, "target", target)
    f = statistics(prediction)
    loss = None if reduction == "none" else empty((), prediction, f)
    losses = empty(prediction.shape, prediction, f) if reduction == "none" else None
    rule = NAMES.index(function), float(a), reduction == "mean"
    kernel(loss, losses, prediction, target, *rule)
    return losses if loss is None else loss, (prediction, target, rule, reduction)


@op(saved={"prediction": "..."})
def backward(dloss: Array | float, saved: Saved) -> Array:
    """dloss -> the gradient of the prediction (...).

    dloss: a 0-d array or a number; with reduction "none" the gradient of the losses (...).
    """
    prediction, target, rule, reduction = saved
    where, shape = "pointwise_loss.backward", prediction.shape
    gradients = check.upstreams(where, dloss, prediction, shape, reduction)
    dx = empty(shape, prediction)
    kernels(prediction).pointwise_loss_backward(dx, *gradients, prediction, target, *rule)
    return dx
