"""Losses: a call gives the loss of a prediction, ``backward`` the gradient of the prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import numpy as np

from byhand import backend
from byhand.backend import Array
from byhand.nn import mode
from byhand.nn.module import Module
from byhand.nn.protocol import contiguous, own_copy, require_whole_number, taken
from byhand.ops import (
    check,
    cross_entropy,
    matmul,
    pointwise_loss,
    rmsnorm,
    weighted_cross_entropy,
)
from byhand.ops.check import Reduction
from byhand.ops.pointwise_loss import Function

_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


class _Loss(Module):
    """What all losses share: the reduction, and the backward pass of what a call has saved."""

    def __init__(self, reduction: Reduction):
        check.reduction(type(self).__name__, reduction)
        self.reduction: Reduction = reduction

    def _taken(self, name: str, x: Any, dtype: str = "float32") -> Array:
        """The argument as an array; TypeError for anything else, with the dtype it should have."""
        if isinstance(x, np.ndarray):
            return x
        owner = type(self).__name__
        if not backend.is_array(x):
            raise TypeError(
                f"{check.not_an_array(owner, name, x)}: use np.array({name}, np.{dtype})"
            )
        return taken(f"{owner}: {name}", x)

    def _prediction(self, name: str, x: Any) -> Array:
        """As `_taken`, with a TypeError also for a numpy array of another dtype than a model's."""
        x = self._taken(name, x)
        if isinstance(x, np.ndarray) and x.dtype not in _FLOATS:
            how = ": the prediction comes before the target" if x.dtype.kind in "iub" else ""
            raise TypeError(
                f"{type(self).__name__}: {name} must be float32 or float64, got {x.dtype}{how}"
            )
        return x

    def _require_same(self, name: str, x: Array, other: str, like: Array) -> None:
        """ValueError unless x has the shape of the other argument, TypeError unless its dtype."""
        owner = type(self).__name__
        if x.shape != like.shape:
            raise check.wrong_shape(owner, name, f"{like.shape}, as {other} has", x)
        if x.dtype != like.dtype:
            how = f": use {name}.astype(np.{like.dtype})" if isinstance(x, np.ndarray) else ""
            raise TypeError(
                f"{owner}: {name} must be {like.dtype}, as {other} is, got {x.dtype}{how}"
            )

    def _by(self, op: Any, refuse: Callable[[], None], *arguments: Any, **options: Any) -> Array:
        """The loss that an op's forward function gives, for its backward function to follow.

        refuse: raises the error of a target's values under the name of this loss. It is called
        only after the op has refused something: reading every target twice would take time.
        """
        try:
            loss, saved = op.forward(*arguments, **options)
        except (IndexError, TypeError, ValueError) as error:
            try:
                refuse()
            except type(error) as named:
                raise named from None
            raise
        self.push((op.backward, saved, self.reduction))
        return cast(Array, loss)

    def _own(self, target: Array) -> Array:
        """The target without gaps, and as an array of its own if the backward pass will read it."""
        return own_copy(target) if mode.saving(self) else contiguous(target)

    def backward(self, dloss: Array | float | None = None) -> Any:
        """The gradient of the prediction, from that of the loss: a number or a 0-d array, by
        default 1. With reduction "none" it is an array of the losses' shape, without a default.
        """
        backward, saved, reduction = self.peek()
        if dloss is None and reduction == "none":
            raise ValueError(
                f"{type(self).__name__}.backward: dloss must be given, an array with a number for "
                "each loss, where reduction is 'none'"
            )
        dprediction = backward(1.0 if dloss is None else dloss, saved)
        self.pop()
        return dprediction


# --- Of each element ------------------------------------------------------------------------------


class _PointwiseLoss(_Loss):
    """A function of ``ops.pointwise_loss`` with the constant that a subclass gives."""

    def _apply(self, prediction: Array, target: Array, function: Function, a: float) -> Array:
        prediction = self._prediction("prediction", prediction)
        target = self._own(self._taken("target", target))
        self._require_same("target", target, "prediction", prediction)

        def refuse() -> None:
            if function == "bce":
                check.all_in_0_to_1(type(self).__name__, "target", target)

        return self._by(pointwise_loss, refuse, prediction, target, function, a, self.reduction)


class MSELoss(_PointwiseLoss):
    """The squared error (prediction - target)², or half of it with ``half``.

    Shapes: prediction, target (...), of one dtype. ``reduction`` "mean" is over all elements, "sum"
    is the sum of squared errors (SSE), "none" gives each (...). Raises ValueError for another
    reduction and for shapes that differ, TypeError for dtypes that differ.
    """

    def __init__(self, reduction: Reduction = "mean", half: bool = False):
        super().__init__(reduction)
        if not isinstance(half, (bool, np.bool_)):
            raise check.wrong_value("MSELoss", "half", "True or False", half)
        self.half = bool(half)

    def forward(self, prediction: Array, target: Array) -> Array:
        return self._apply(prediction, target, "squared", 0.5 if self.half else 1.0)


class HuberLoss(_PointwiseLoss):
    """d²/2 where |d| <= ``delta``, else delta (|d| - delta/2), with d = prediction - target (Huber,
    1964).

    Shapes, ``reduction`` and errors as in `MSELoss`; ValueError unless delta > 0.
    """

    def __init__(self, reduction: Reduction = "mean", delta: float = 1.0):
        super().__init__(reduction)
        check.positive("HuberLoss", "delta", delta)
        self.delta = delta

    def forward(self, prediction: Array, target: Array) -> Array:
        check.positive("HuberLoss", "delta", self.delta)  # it may have been set
        return self._apply(prediction, target, "huber", self.delta)


class BCEWithLogitsLoss(_PointwiseLoss):
    """Binary cross-entropy of logits: -t log s(x) - (1 - t) log(1 - s(x)), s the sigmoid (Bishop,
    2006, equation 4.90), without overflow for any logit.

    Shapes, ``reduction`` and errors as in `MSELoss`, with prediction the logits x and target t in
    0..1. ``pos_weight``, a number where PyTorch takes an array too, multiplies the first term:
    above 1 it weighs the positive class more. ValueError unless pos_weight > 0, and for a target
    outside 0..1 (numpy arrays only).
    """

    def __init__(self, reduction: Reduction = "mean", pos_weight: float | None = None):
        super().__init__(reduction)
        if pos_weight is not None:
            check.positive("BCEWithLogitsLoss", "pos_weight", pos_weight)
        self.pos_weight = pos_weight

    def forward(self, prediction: Array, target: Array) -> Array:
        weight = 1.0 if self.pos_weight is None else self.pos_weight
        check.positive("BCEWithLogitsLoss", "pos_weight", weight)  # it may have been set
        return self._apply(prediction, target, "bce", weight)


# --- Of classes -----------------------------------------------------------------------------------


class _ClassLoss(_Loss):
    """A loss of ids of classes, with a weight for each class."""

    def __init__(
        self, weight: Array | Sequence[float] | None, ignore_index: int, reduction: Reduction
    ):
        super().__init__(reduction)
        owner = type(self).__name__
        self.weight: Any = weight  # an array from here on: see __setattr__
        self.ignore_index = require_whole_number(owner, "ignore_index", ignore_index)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight" and value is not None:
            value = _class_weights(type(self).__name__, value)
        super().__setattr__(name, value)

    def _require_ids(self, prediction: Array, target: Array) -> None:
        """ValueError unless the target has an id for each row of the prediction."""
        owner, shape = type(self).__name__, prediction.shape
        if not shape:
            raise check.wrong_shape(owner, "prediction", "(..., V)", prediction)
        if target.shape != shape[:-1]:
            error = check.wrong_shape(owner, "target", shape[:-1], target)
            raise ValueError(f"{error}, where prediction has shape {shape}")

    def _refuse_ids(self, prediction: Array, target: Array) -> None:
        classes = prediction.shape[-1]
        check.ids(type(self).__name__, "target", target, classes, self.ignore_index, "the classes")

    def _weight_for(self, prediction: Array) -> Array | None:
        """The class weights in the dtype and on the device that the kernels expect."""
        if self.weight is None:
            return None
        if self.weight.shape != prediction.shape[-1:]:
            error = check.wrong_shape(
                type(self).__name__, "weight", prediction.shape[-1:], self.weight
            )
            raise ValueError(f"{error}, where prediction has shape {prediction.shape}")
        weight = self.weight.astype(backend.statistics(prediction))
        return backend.to_device_of(weight, prediction)


class CrossEntropyLoss(_ClassLoss):
    """Cross-entropy of logits: -log p of the target's class, p the softmax of the logits (Bishop,
    2006, equation 4.108).

    Shapes: prediction, the logits (..., V); target (...) int64, ids of classes, or (..., V) in
    prediction's dtype, probabilities of classes (one-hot rows, for example). The classes are the
    last axis; in PyTorch they are the second.

    ``weight`` (V,): a factor for the loss of each class. ``ignore_index``: targets with this id do
    not count. ``label_smoothing``: the share of the target's probability that is spread evenly over
    all classes (Szegedy et al., 2016, section 7). ``reduction``: "mean" divides the sum by the
    weights of the targets, or by the number of rows where target holds probabilities; "sum"; "none"
    gives each (...). If no target counts, the loss and the gradient are 0, where PyTorch's mean is
    NaN.

    Raises ValueError for an option or a shape, TypeError for a dtype, IndexError for an id outside
    0..V-1; with probabilities, ValueError for an ignore_index >= 0.
    """

    def __init__(
        self,
        weight: Array | Sequence[float] | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
    ):
        super().__init__(weight, ignore_index, reduction)
        check.in_0_to_1("CrossEntropyLoss", "label_smoothing", label_smoothing)
        self.label_smoothing = label_smoothing

    def forward(self, prediction: Array, target: Array) -> Array:
        prediction = self._prediction("prediction", prediction)
        target = self._own(self._taken("target", target, "int64"))
        if target.ndim == prediction.ndim > 0:
            self._require_probabilities(prediction, target)
            ids, probabilities = None, target
            refuse = partial(check.all_in_0_to_1, "CrossEntropyLoss", "target", target)
        else:
            self._require_ids(prediction, target)
            ids, probabilities = target, None
            refuse = partial(self._refuse_ids, prediction, target)
        options: Any = (self.ignore_index, self.label_smoothing, self.reduction)
        if ids is not None and self.weight is None and self.reduction != "none":
            return self._by(cross_entropy, refuse, prediction, ids, *options)
        arrays = prediction, ids, probabilities, self._weight_for(prediction)
        return self._by(weighted_cross_entropy, refuse, *arrays, *options)

    def _require_probabilities(self, prediction: Array, target: Array) -> None:
        if target.shape != (shape := prediction.shape):
            expected = f"{shape[:-1]} (ids of classes) or {shape} (probabilities of classes)"
            raise check.wrong_shape("CrossEntropyLoss", "target", expected, target)
        self._require_same("target", target, "prediction", prediction)
        if self.ignore_index >= 0:
            raise ValueError(
                "CrossEntropyLoss: ignore_index is an id and target holds probabilities: leave it "
                f"out, got {self.ignore_index}"
            )


class NLLLoss(_ClassLoss):
    """The negative log-likelihood: minus the log-probability of the target's class.

    Shapes: prediction, log-probabilities (..., V), as ``ops.log_softmax`` gives; target (...)
    int64. ``weight``, ``ignore_index``, ``reduction`` and the errors are those of
    `CrossEntropyLoss`, which computes both in one.
    """

    def __init__(
        self,
        weight: Array | Sequence[float] | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ):
        super().__init__(weight, ignore_index, reduction)

    def forward(self, prediction: Array, target: Array) -> Array:
        prediction = self._prediction("prediction", prediction)
        target = self._own(self._taken("target", target, "int64"))
        self._require_ids(prediction, target)
        return self._by(
            weighted_cross_entropy,
            partial(self._refuse_ids, prediction, target),
            prediction,
            target,
            weight=self._weight_for(prediction),
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            normalise=False,
        )


class InfoNCELoss(_Loss):
    """The contrastive loss of pairs: row i of queries belongs to row i of keys, and the other keys
    of the batch are its negatives (van den Oord et al., 2018, equation 4).

    The similarity of two rows is their cosine, divided by ``temperature`` (Chen et al., SimCLR,
    2020, equation 1, in one direction and with no negatives among the queries); the loss of a row
    is the cross-entropy of its similarities with the target i.

    Shapes: queries, keys (N, D), of one dtype. ``backward`` gives the pair (dqueries, dkeys).
    ``reduction`` "none" gives the loss of each row (N,). Raises ValueError for a shape, another
    reduction, and unless temperature > 0, TypeError for a dtype.
    """

    def __init__(self, temperature: float = 0.1, reduction: Reduction = "mean"):
        super().__init__(reduction)
        check.positive("InfoNCELoss", "temperature", temperature)
        self.temperature = temperature

    def forward(self, queries: Array, keys: Array) -> Array:
        check.positive("InfoNCELoss", "temperature", self.temperature)  # it may have been set
        queries = self._prediction("queries", queries)
        keys = self._own(self._taken("keys", keys))
        if queries.ndim != 2:
            raise check.wrong_shape("InfoNCELoss", "queries", "(N, D)", queries)
        self._require_same("keys", keys, "queries", queries)
        a, of_queries = _unit_rows(queries, 1 / self.temperature)
        b, of_keys = _unit_rows(keys, 1.0)
        similarity, product = matmul.forward(a, b, transpose_b=True)
        ids = backend.to_device_of(np.arange(len(queries), dtype=np.int64), queries)
        loss, rows = weighted_cross_entropy.forward(similarity, ids, reduction=self.reduction)
        saved = rows, product, of_queries, of_keys
        self.push((_info_nce_backward, saved, self.reduction))
        return loss


def _unit_rows(x: Array, length: float) -> tuple[Array, Any]:
    """The rows of x (N, D) scaled to this length, x length / sqrt(sum x² + 1e-24), and what
    `rmsnorm.backward` needs. A row of zeros stays one.
    """
    columns = max(x.shape[-1], 1)
    w = backend.empty(x.shape[-1:], x)
    w.fill(length / columns**0.5)
    return rmsnorm.forward(x, w, 1e-24 / columns)


def _info_nce_backward(dloss: Any, saved: Any) -> tuple[Array, Array]:
    rows, product, of_queries, of_keys = saved
    da, db = matmul.backward(weighted_cross_entropy.backward(dloss, rows), product)
    return rmsnorm.backward(da, of_queries), rmsnorm.backward(db, of_keys)


def _class_weights(owner: str, weight: Any) -> np.ndarray:
    """The weights of classes as a float64 numpy array; TypeError unless they are numbers,
    ValueError unless they are a vector of numbers of at least 0.
    """
    weight = taken(f"{owner}: weight", weight)
    try:
        weights = np.array(backend.to_numpy(weight), np.float64)
    except (TypeError, ValueError):
        kind = type(weight).__name__
        raise TypeError(f"{owner}: weight must be an array of numbers, got {kind}") from None
    if weights.ndim != 1:
        raise check.wrong_shape(owner, "weight", "(V,)", weights)
    for at, number in enumerate(weights.tolist()):
        check.at_least_0(owner, f"weight[{at}]", number)
    return weights
