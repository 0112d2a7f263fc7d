"""The classification task: the cross-entropy of class logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from byhand import backend
from byhand.backend import Array
from byhand.nn.protocol import own_copy
from byhand.ops import check, cross_entropy, pointwise_loss
from byhand.tasks import task
from byhand.tasks.task import Batch

if TYPE_CHECKING:
    from byhand.text.tokenizer import Tokenizer


class Classification(task.OutputTask):
    """Batches of the model's input and "labels", the classes.

    The input is "x" (B, ...), or for a text "ids" (B, T) int64, with "lengths" (B,) and "segments"
    (B, T) where there are any, as `data.classified` makes it for a `byhand.Bert` with the head
    "classification".

    labels: (B,) int64, or for several labels of an example real numbers in 0..1 (B, classes). The
    model gives logits (B, classes); the loss of an example is their cross-entropy or, with several
    labels, the mean of their binary cross-entropies. Metrics: loss; accuracy, with several labels
    that of whole examples; of two classes f1, that of class 1, and of several labels f1 over all of
    them (its true positives, false positives and false negatives are summed over the batches).

    Args:
        tokenizer, samples: needed for ``sample``, which shows a text of this data set.
    """

    unit = "example"
    loss_unit = "nats per example"

    def __init__(self, model: Any, tokenizer: Tokenizer | None = None, samples: Any = None):
        super().__init__(model)
        self.tokenizer, self.samples = tokenizer, samples

    def check(self, batch: Batch) -> None:
        names = _inputs(batch)
        if names != ["x"]:
            fields = dict(zip(names, self._taken(batch, *names), strict=True))
            self.model.check(labels=self._taken(batch, "labels")[0], **fields)  # type: ignore
            return
        x, labels = self._taken(batch, "x", "labels")
        if labels.dtype.kind == "f":
            if labels.ndim != 2 or labels.shape[0] != x.shape[0]:
                raise check.wrong_shape("Classification", "labels", f"({len(x)}, classes)", labels)
            check.all_in_0_to_1("Classification", "labels", labels)
            return
        check.ids("Classification", "labels", labels, self._classes(), of="the classes")
        if labels.shape != x.shape[:1]:
            raise check.wrong_shape("Classification", "labels", x.shape[:1], labels)

    def _classes(self) -> int:
        """The number of classes in the model's configuration; if it has none, no upper bound."""
        config = getattr(self.model, "config", None)
        return getattr(config, "num_classes", np.iinfo(np.int64).max)

    def count(self, batch: Batch) -> int:
        return len(self._taken(batch, "labels")[0])

    def _logits(self, batch: Batch) -> tuple[Array, Array]:
        """The logits and a copy of the labels, which fit them."""
        names = _inputs(batch)
        *inputs, labels = self._taken(batch, *names, "labels")
        if names == ["x"]:
            logits = self.model(*inputs)
        else:
            logits = self.model(**dict(zip(names, inputs, strict=True)))
        if labels.dtype.kind == "f":
            if labels.shape != logits.shape:
                raise check.wrong_shape("Classification", "labels", logits.shape, labels)
            return logits, own_copy(labels.astype(logits.dtype, copy=False))
        if labels.shape != logits.shape[:-1]:
            raise check.wrong_shape("Classification", "labels", logits.shape[:-1], labels)
        check.ids("Classification", "labels", labels, logits.shape[-1], of="the classes")
        return logits, own_copy(labels)

    def loss(self, batch: Batch, scale: Any) -> Array:
        with self.model.discard_on_error():
            logits, labels = self._logits(batch)
            loss, backward, saved = _loss(logits, labels)
        if labels.dtype.kind == "f":
            return self.scaled(loss, backward, saved, scale / logits.shape[-1])
        return self.scaled(loss, backward, saved, scale)

    def metrics(self, batch: Batch) -> dict[str, tuple[float, int]]:
        count, there = self.count(batch), self.on_device(batch)
        logits, labels = self._logits(there)
        loss = float(_loss(logits, labels)[0])
        found, wanted = backend.to_numpy(logits), backend.to_numpy(labels)
        several = wanted.dtype.kind == "f"
        if several:
            loss, wanted, best = loss / found.shape[-1], wanted > 0.5, found > 0
            right = (best == wanted).all(-1)
        else:
            best = found.argmax(-1)
            right = best == wanted
        made = {"loss": (loss, count), "accuracy": (float(right.sum()), count)}
        if several or found.shape[-1] == 2:
            both = int(np.count_nonzero(best * wanted))
            made["f1"] = (2.0 * both, int(np.count_nonzero(best) + np.count_nonzero(wanted)))
        return made

    def sample(self, rng: np.random.Generator, stop: Any = False) -> str | None:
        """A text of the samples with the label that the model gives it: "text -> good", or
        "text -> good (it was bad)". None without a tokenizer or samples.
        """
        if self.tokenizer is None or self.samples is None:
            return None
        batch = self.samples.batch([int(rng.integers(len(self.samples)))])
        with self.model.no_save():
            logits, labels = self._logits(self.on_device(batch))
        y, wanted = backend.to_numpy(logits)[0], backend.to_numpy(labels)[0]
        several = labels.ndim == 2
        best = np.flatnonzero(y > 0) if several else y.argmax(keepdims=True)
        right = np.flatnonzero(wanted > 0.5) if several else np.atleast_1d(wanted)
        config = getattr(self.model, "config", None)
        names = getattr(config, "labels", ()) or list(map(str, range(len(y))))
        shown, was = (", ".join(names[i] for i in of) or "none" for of in (best, right))
        text = self.tokenizer.decode(batch["ids"][0][: int(batch["lengths"][0])])
        return f"{text} -> {shown}" + ("" if shown == was else f" (it was {was})")


def _inputs(batch: Any) -> list[str]:
    """The names of the arrays that are the model's input."""
    if not isinstance(batch, Mapping) or "ids" not in batch:
        return ["x"]
    return [name for name in ("ids", "lengths", "segments") if name in batch]


def _loss(logits: Array, labels: Array) -> tuple[Array, Any, Any]:
    """The sum of the losses of all labels, the op's backward function and what it needs."""
    if labels.dtype.kind == "f":
        loss, saved = pointwise_loss.forward(logits, labels, "bce", reduction="sum")
        return loss, pointwise_loss.backward, saved
    loss, saved = cross_entropy.forward(logits, labels, reduction="sum")
    return loss, cross_entropy.backward, saved


Task = Classification
