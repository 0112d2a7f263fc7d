"""The checks of what a BERT is given: one sentence for each mistake."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from byhand import backend
from byhand.backend import Array
from byhand.ops import check
from byhand.ops.check import IGNORED

if TYPE_CHECKING:
    from byhand.models.bert import BertConfig


def check_ids(c: BertConfig, ids: Any) -> None:
    """The errors of ids (B, T) that are no values."""
    _require_int64("ids", ids)
    if ids.ndim != 2:
        how = ": use ids[None] for one sequence" if ids.ndim == 1 else ""
        raise ValueError(f"Bert: ids must have shape (B, T), got {ids.shape}{how}")
    if ids.shape[1] > c.max_position_embeddings:
        raise ValueError(
            f"Bert: {ids.shape[1]} tokens do not fit the context of {c.max_position_embeddings}"
        )


def check_inputs(
    c: BertConfig, ids: Any, lengths: Any, segments: Any, sequences: Any = None
) -> None:
    """The errors of the arguments of a forward pass. Values are checked in numpy arrays only:
    reading a cupy array would wait for the device.
    """
    check_ids(c, ids)
    if lengths is not None:
        _require_int64("lengths", lengths)
        _require_shape("lengths", lengths, ids.shape[:1])
        if isinstance(lengths, np.ndarray):
            if bad := check.first_where("lengths", lengths, lengths == 0):
                raise ValueError(f"Bert: {bad}: a row of nothing but padding has no meaning")
            check.lengths("Bert", "lengths", lengths, ids.shape[1])
    if segments is not None:
        _require_int64("segments", segments)
        _require_shape("segments", segments, ids.shape)
        check.ids("Bert", "segments", segments, c.type_vocab_size, of="the segments")
    if sequences is not None:
        if c.head not in ("mlm", "tokens"):
            raise ValueError(
                f"Bert: sequences are for the heads 'mlm' and 'tokens', not for {c.head!r}, which "
                "needs a row for each sequence"
            )
        _require_int64("sequences", sequences)
        _require_shape("sequences", sequences, ids.shape)


def check_labels(
    c: BertConfig,
    ids: Array,
    labels: Any,
    lengths: Array | None,
    positions: Array | None,
    next_sentence_label: Any,
) -> None:
    """The errors of the labels of a head, for ids and lengths that are right."""
    head = c.head
    if head in (None, "embedding"):
        named = "without a head" if head is None else "with the head 'embedding'"
        raise ValueError(
            f"Bert.loss: a model {named} has no loss: take a loss of its outputs, such as "
            "nn.InfoNCELoss, and pass its gradients to backward(...)"
        )
    if (next_sentence_label is None) == (head == "pretraining"):
        verb = "needs" if head == "pretraining" else "takes no"
        raise ValueError(f"Bert.loss: the head {head!r} {verb} next_sentence_label")
    if positions is not None and head not in ("mlm", "pretraining"):
        raise ValueError(f"Bert.loss: the head {head!r} takes no positions")
    if head == "classification":
        return _check_classes(c, ids, labels)
    _require_int64("labels", labels)
    if head == "span":
        return _check_spans(ids, labels, lengths)
    if positions is None:
        _require_shape("labels", labels, ids.shape)
        _no_labels_of_padding(labels, lengths)
    else:
        _require_int64("positions", positions)
        _require_shape("labels", labels, positions.shape)
        check.ids("Bert", "positions", positions, ids.size, of="the batch")
    of = ("the labels", c.num_labels) if head == "tokens" else ("the vocabulary", c.vocab_size)
    check.ids("Bert", "labels", labels, of[1], IGNORED, of=of[0])
    if next_sentence_label is not None:
        _require_int64("next_sentence_label", next_sentence_label)
        _require_shape("next_sentence_label", next_sentence_label, ids.shape[:1])
        check.ids("Bert", "next_sentence_label", next_sentence_label, 2, of="the labels")


def require_counted(labels: Array) -> None:
    """ValueError unless a label counts: a mean over none has no meaning."""
    if isinstance(labels, np.ndarray) and (labels == IGNORED).all():
        raise ValueError(
            f"Bert.loss: no label counts, all are {IGNORED}: there is no masked or labelled "
            "position in the batch"
        )


def _check_classes(c: BertConfig, ids: Array, labels: Any) -> None:
    if not backend.is_array(labels):
        raise check.not_an_array("Bert", "labels", labels)
    if labels.dtype.kind == "f":
        _require_shape("labels", labels, (ids.shape[0], c.num_labels))
        if isinstance(labels, np.ndarray):
            bad = ~((labels >= 0) & (labels <= 1))  # NaN too
            if found := check.first_where("labels", labels, bad):
                raise ValueError(f"Bert: {found} is outside 0..1")
        return
    _require_int64("labels", labels)
    _require_shape("labels", labels, ids.shape[:1])
    if c.num_labels == 1:
        raise ValueError("Bert: with one label, labels must be floats in 0..1 of shape (B, 1)")
    check.ids("Bert", "labels", labels, c.num_labels, of="the labels")


def _check_spans(ids: Array, labels: Any, lengths: Array | None) -> None:
    _require_shape("labels", labels, (ids.shape[0], 2))
    if not isinstance(labels, np.ndarray):
        return
    most = np.full(len(labels), ids.shape[1]) if lengths is None else lengths
    ignored = (labels == IGNORED).all(axis=1)
    outside = (labels < 0) | (labels >= np.asarray(most)[:, None])
    if bad := check.first_where("labels", labels, outside & ~ignored[:, None]):
        raise IndexError(f"Bert: {bad} is no position of a token")
    if (labels[:, 0] > labels[:, 1]).any():
        row = int((labels[:, 0] > labels[:, 1]).argmax())
        start, end = labels[row].tolist()
        raise ValueError(f"Bert: the span labels[{row}] ends at {end}, before its start at {start}")


def _no_labels_of_padding(labels: Array, lengths: Array | None) -> None:
    if lengths is None or not isinstance(labels, np.ndarray):
        return
    padding = np.arange(labels.shape[1]) >= np.asarray(lengths)[:, None]
    if bad := check.first_where("labels", labels, padding & (labels != IGNORED)):
        raise ValueError(f"Bert: {bad} is the label of padding: it must be {IGNORED}")


def _require_int64(name: str, a: Any) -> None:
    if not isinstance(a, np.ndarray) and not backend.is_cupy(a):
        raise TypeError(
            f"Bert: {name} must be an int64 array, got {type(a).__name__}: use "
            f"np.array({name}, np.int64)"
        )
    if a.dtype != np.int64:
        how = f": use {name}.astype(np.int64)" if a.dtype.kind in "iu" else ""
        raise TypeError(f"Bert: {name} must be int64, got {a.dtype}{how}")


def _require_shape(name: str, a: Any, shape: tuple[int, ...]) -> None:
    if a.shape != shape:
        raise check.wrong_shape("Bert", name, shape, a)
