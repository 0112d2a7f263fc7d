"""BERT's heads (Devlin et al., 2018, sections 3.1 and 4): from the encoder's output to logits or
vectors, their losses, and back.

A head's ``forward(hidden, lengths, there)`` gives its outputs, ``backward(*gradients)`` takes the
gradients of these and returns that of the encoder's output. ``loss`` returns a 0-d array and what
``backward`` then takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

from byhand import backend
from byhand.backend import Array
from byhand.nn import Dropout, LayerNorm, Linear, Module, Tanh, activation, init
from byhand.nn.protocol import contiguous, copied, own_copy
from byhand.ops import attention, cross_entropy, embedding, pointwise_loss, rmsnorm
from byhand.ops.check import IGNORED

if TYPE_CHECKING:
    from byhand.models.bert import BertConfig

PADDING = -1e9  # a logit of padding: its probability is exactly 0


def linear(c: BertConfig, outputs: int) -> Linear:
    weights = init.Normal(c.initializer_range)
    return Linear(c.hidden_size, outputs, weight_init=weights, bias_init=init.zeros)


def _times(scale: Any, number: float, like: Array) -> Any:
    """scale * number, where the scale is a number or a 0-d array."""
    if not hasattr(scale, "shape"):
        return scale * number
    made = copied(backend.to_device_of(scale, like), backend.statistics(like))
    made *= number
    return made


class Hidden(NamedTuple):
    """What a BERT without a head gives: ``hidden`` (B, T, C), and ``pooled`` (B, C): tanh of a
    linear layer of the first position.
    """

    hidden: Array
    pooled: Array


class PretrainingLogits(NamedTuple):
    """Logits of the tokens (B, T, V), and of "B follows A" and "B is from elsewhere" (B, 2)."""

    tokens: Array
    next_sentence: Array


class SpanLogits(NamedTuple):
    """Logits of the first and of the last token of the answer, each (B, T); -1e9 at padding."""

    start: Array
    end: Array


class Pooler(Module):
    """tanh of a linear layer of the first position: (B, T, C) -> (B, C)."""

    def __init__(self, c: BertConfig):
        self.dense = linear(c, c.hidden_size)
        self.tanh = Tanh()

    def forward(self, hidden: Array) -> Array:
        self.push(hidden.shape)
        return self.tanh(self.dense(copied(hidden[:, 0])))

    def backward(self, dy: Array, add: Array | None = None) -> Array:
        """The gradient of all positions, plus ``add`` (B, T, C)."""
        d = self.dense.backward(self.tanh.backward(dy))
        shape = self.pop()
        dx = backend.zeros(shape, d) if add is None else copied(add)
        first = dx[:, 0]
        first += d
        return dx


class Gather(Module):
    """Some positions of all rows: (B, T, C) and positions (N,) int64, b * T + t -> (N, C).

    Backward is the scatter-add.
    """

    def forward(self, hidden: Array, positions: Array) -> Array:
        rows, saved = embedding.forward(positions, hidden.reshape(-1, hidden.shape[-1]))
        self.push((saved, hidden.shape))
        return rows

    def backward(self, dy: Array) -> Array:
        saved, shape = self.pop()
        d = backend.zeros((shape[0] * shape[1], shape[2]), dy, backend.statistics(dy))
        embedding.backward(dy, saved, d)
        return (d if d.dtype == dy.dtype else copied(d, dy.dtype)).reshape(shape)


class Predictions(Module):
    """Logits of the tokens: decoder(norm(activation(transform(x)))), (..., C) -> (..., V).

    The weight of the decoder is the matrix of the token embedding, its bias is its own.
    """

    def __init__(self, c: BertConfig):
        self.transform = linear(c, c.hidden_size)
        self.activation = activation.layer_named("Bert", c.hidden_act)
        self.norm = LayerNorm(c.hidden_size, c.layer_norm_eps)
        self.decoder = linear(c, c.vocab_size)

    def forward(self, x: Array) -> Array:
        return self.decoder(self.norm(self.activation(self.transform(x))))

    def backward(self, dy: Array) -> Array:
        d = self.norm.backward(self.decoder.backward(dy))
        return self.transform.backward(self.activation.backward(d))


class Plain(Module):
    """No head: the encoder's output and the pooler's. No loss."""

    outputs = 2

    def __init__(self, c: BertConfig):
        self.pooler = Pooler(c)

    def forward(self, hidden: Array, lengths: Array | None, there: Array | None) -> Hidden:
        return Hidden(hidden, self.pooler(hidden))

    def backward(self, dhidden: Array, dpooled: Array) -> Array:
        return self.pooler.backward(dpooled, add=dhidden)


class Masked(Module):
    """Logits of the tokens; with ``pairs`` also whether the second text follows the first."""

    def __init__(self, c: BertConfig, pairs: bool):
        self.outputs = 2 if pairs else 1
        self.gather = Gather()
        self.predictions = Predictions(c)
        if pairs:
            self.pooler, self.next_sentence = Pooler(c), linear(c, 2)

    def forward(self, hidden: Array, lengths: Array | None, there: Array | None) -> Any:
        self.push(False)
        tokens = self.predictions(hidden)
        if self.outputs == 1:
            return tokens
        return PretrainingLogits(tokens, self.next_sentence(self.pooler(hidden)))

    def backward(self, dtokens: Array, dnext: Array | None = None) -> Array:
        gathered = self.pop()
        second = None if dnext is None else self.next_sentence.backward(dnext)
        d = self.predictions.backward(dtokens)
        if gathered:
            d = self.gather.backward(d)
        return d if second is None else self.pooler.backward(second, add=d)

    def logits_at(self, hidden: Array, positions: Array) -> Array:
        """Those of the tokens at some positions (N,) only, (N, V)."""
        return self.predictions(self.gather(hidden, own_copy(positions)))

    def loss(
        self, hidden: Array, labels: Array, next: Array | None, positions: Array | None, scale: Any
    ) -> tuple[Array, list[Array]]:
        if positions is None:
            positions = backend.xp(labels).flatnonzero(labels != IGNORED)
            labels = labels.reshape(-1)[positions]
        factor, reduction = (1.0 if scale is None else scale), "sum"
        if scale is None or next is not None:
            reduction = "mean"
        if scale is not None and next is not None:
            factor = _times(scale, len(next), hidden)
        self.push(True)
        logits = self.logits_at(hidden, positions.reshape(-1))
        gradients, options = [logits], cast(Any, {"reduction": reduction})
        targets = contiguous(labels.reshape(-1))
        if self._saving:  # the gradient takes the place of the logits
            loss = cross_entropy.gradient_in_place(logits, targets, factor, **options)
        else:
            loss, _ = cross_entropy.forward(logits, targets, **options)
        if next is not None:
            pairs = self.next_sentence(self.pooler(hidden))
            second, saved = cross_entropy.forward(pairs, contiguous(next))
            loss += second
            gradients.append(cross_entropy.backward(factor, saved))
        loss *= factor
        return loss, gradients


class Labelled(Module):
    """Logits of ``num_labels`` labels: of the whole row, or with ``each`` of every position."""

    outputs = 1

    def __init__(self, c: BertConfig, each: bool):
        self.pooler = None if each else Pooler(c)
        p = c.hidden_dropout_prob if c.classifier_dropout is None else c.classifier_dropout
        self.dropout = Dropout(p)
        self.classifier = linear(c, c.num_labels)

    def forward(self, hidden: Array, lengths: Array | None, there: Array | None) -> Array:
        x = hidden if self.pooler is None else self.pooler(hidden)
        return self.classifier(self.dropout(x))

    def backward(self, dy: Array) -> Array:
        d = self.dropout.backward(self.classifier.backward(dy))
        return d if self.pooler is None else self.pooler.backward(d)

    def loss(self, y: Array, labels: Array, scale: Any) -> tuple[Array, list[Array]]:
        factor: Any = 1.0 if scale is None else scale
        op: Any = cross_entropy
        options: dict[str, Any] = {"reduction": "mean" if scale is None else "sum"}
        if labels.dtype.kind == "f":
            op, labels = pointwise_loss, labels.astype(y.dtype, copy=False)
            options["function"] = "bce"
            if scale is not None:
                factor = _times(scale, 1 / y.shape[1], y)
        loss, saved = op.forward(y, contiguous(labels), **options)
        gradients = [op.backward(factor, saved)]
        loss *= factor
        return loss, gradients


class Span(Module):
    """Logits of the first and the last token of an answer. Those of padding are -1e9 and have no
    gradient.
    """

    outputs = 2

    def __init__(self, c: BertConfig):
        self.linear = linear(c, 2)

    def forward(self, hidden: Array, lengths: Array | None, there: Array | None) -> SpanLogits:
        y = self.linear(hidden)
        self.push(there)
        return SpanLogits(*(_masked(y[:, :, i], there, PADDING) for i in range(2)))

    def backward(self, dstart: Array, dend: Array) -> Array:
        there = self.pop()
        d = backend.empty((*dstart.shape, 2), dstart)
        for i, part in enumerate((dstart, dend)):
            d[:, :, i] = _masked(part, there, 0.0)
        return self.linear.backward(d)

    def loss(self, y: SpanLogits, labels: Array, scale: Any) -> tuple[Array, list[Array]]:
        factor: Any = 1.0 if scale is None else _times(scale, 0.5, y.start)
        reduction: Any = "mean" if scale is None else "sum"
        both = backend.empty((len(y.start), 2, *y.start.shape[1:]), y.start)
        both[:, 0], both[:, 1] = y
        loss, saved = cross_entropy.forward(both, contiguous(labels), reduction=reduction)
        d = cross_entropy.backward(factor, saved)
        loss *= factor
        return loss, [d[:, 0], d[:, 1]]


def _masked(a: Array, there: Array | None, padding: float) -> Array:
    """A copy of a (B, T) with this number where there is padding."""
    return copied(a) if there is None else backend.xp(a).where(there, a, a.dtype.type(padding))


class MeanPool(Module):
    """The mean over the positions that are no padding: (B, T, C) -> (B, C), with ``normalize``
    scaled to length 1 (Reimers & Gurevych, 2019, section 3). No loss.

    It is attention whose scores are all 0: the weights of n keys are then 1/n.
    """

    outputs = 1

    def __init__(self, c: BertConfig):
        self.heads, self.normalize = c.num_attention_heads, c.normalize

    def forward(self, hidden: Array, lengths: Array | None, there: Array | None) -> Array:
        B, T, C = hidden.shape
        x = hidden.reshape(B, T, self.heads, -1)
        q = backend.zeros((B, 1, *x.shape[2:]), x)
        y, saved = attention.forward(q, x, x, lengths=own_copy(lengths))
        y, norm = y.reshape(B, C), None
        if self.normalize:
            scale = backend.empty((C,), y)
            scale.fill(C**-0.5)
            y, norm = rmsnorm.forward(y, scale, 1e-24 / C)
        self.push((saved, norm))
        return y

    def backward(self, dy: Array) -> Array:
        saved, norm = self.pop()
        d = dy if norm is None else rmsnorm.backward(dy, norm)
        shape = saved[1].shape
        d = attention.backward(d.reshape(shape[0], 1, *shape[2:]), saved)[2]
        return d.reshape(*shape[:2], -1)


def head_of(c: BertConfig) -> Any:
    """The head that the configuration names."""
    if c.head in ("mlm", "pretraining"):
        return Masked(c, c.head == "pretraining")
    if c.head in ("classification", "tokens"):
        return Labelled(c, c.head == "tokens")
    return {None: Plain, "span": Span, "embedding": MeanPool}[c.head](c)
