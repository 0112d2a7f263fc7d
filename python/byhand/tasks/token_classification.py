"""The token classification task: a tag for each word of a text, such as the kind of a name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from byhand import backend
from byhand.backend import Array
from byhand.ops.check import IGNORED
from byhand.tasks.encoder_task import EncoderTask
from byhand.tasks.task import Batch

if TYPE_CHECKING:
    from byhand.text.tokenizer import Tokenizer


class TokenClassification(EncoderTask):
    """Batches of "ids" and "labels", (B, T) int64, as `data.tagged` makes them: the number of the
    tag of a word at its first token, else -100; "lengths" (B,), and "sequences" (B, T) of packed
    rows. The model is a `byhand.Bert` with the head "tokens".

    The unit is a word. Metrics: loss, accuracy of the words and, where the names of the tags are
    given and are of the form B-X, I-X and O, f1: of whole entities, each of which must have the
    right words and the right kind (Tjong Kim Sang & De Meulder, 2003).

    Args:
        labels: the names of the tags, in the order of their numbers; None: those of the model's
            configuration.
        tokenizer, samples: needed for ``sample``, which shows a text of this data set, whose rows
            are not packed.
    """

    head = "tokens"
    optional = ("lengths", "segments", "sequences")
    inputs = ("ids", *optional)
    unit = "word"
    loss_unit = "nats per word"

    def __init__(
        self,
        model: Any,
        labels: Sequence[str] | None = None,
        tokenizer: Tokenizer | None = None,
        samples: Any = None,
    ):
        super().__init__(model)
        self.tokenizer, self.samples = tokenizer, samples
        labels = (model.config.labels or None) if labels is None else labels
        if labels is not None and len(labels) != model.config.num_labels:
            raise ValueError(
                f"TokenClassification: there are {len(labels)} labels, and the model has "
                f"{model.config.num_labels}"
            )
        self.labels = None if labels is None else list(labels)

    def metrics(self, batch: Batch) -> dict[str, tuple[float, int]]:
        found, labels = super().metrics(batch), self._fields(batch)["labels"]
        logits = self.model(**self._inputs(self.on_device(batch)))
        best = backend.to_numpy(logits).argmax(-1)
        counted = labels != IGNORED
        right = ((best == labels) & counted).sum()
        found["accuracy"] = (float(right), int(counted.sum()))
        if self.labels is not None and any(name[:2] in ("B-", "I-") for name in self.labels):
            both, sizes = 0, 0
            for words in _texts(counted, self._fields(batch).get("sequences")):
                there, here = (
                    entities([self.labels[i] for i in tags[words].tolist()])
                    for tags in (labels, best)
                )
                both += len(there & here)
                sizes += len(there) + len(here)
            found["f1"] = (2.0 * both, sizes)
        return found

    def sample(self, rng: np.random.Generator, stop: Any = False) -> str | None:
        """The words of a text of the samples with the tags that the model gives them: word/TAG, or
        word/TAG (it was OTHER). None without a tokenizer, samples or names.
        """
        if self.tokenizer is None or self.samples is None or self.labels is None:
            return None
        batch = self.samples.batch([int(rng.integers(len(self.samples)))])
        with self.model.no_save():
            logits = self.model(**self._inputs(self.on_device(batch)))
        best = backend.to_numpy(logits)[0].argmax(-1)
        ids, labels = batch["ids"][0], batch["labels"][0]
        at = np.flatnonzero(labels != IGNORED)
        words = []
        for start, end in zip(at, [*at[1:], int(batch["lengths"][0]) - 1], strict=True):
            tag, was = self.labels[best[start]], self.labels[labels[start]]
            words.append(f"{self.tokenizer.decode(ids[start:end])}/{tag}")
            if tag != was:
                words[-1] += f" (it was {was})"
        return " ".join(words)


def _texts(counted: Array, sequences: Array | None) -> Iterator[Array]:
    """The words of each text, as masks (B, T)."""
    numbers = np.zeros(counted.shape, np.int64) if sequences is None else sequences
    rows = np.arange(len(counted))[:, None]
    for row in range(len(counted)):
        for number in np.unique(numbers[row, counted[row]]):
            yield counted & (rows == row) & (numbers == number)


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """The entities in the tags of the words of a text: (kind, first word, one after the last).

    B-X begins an entity of kind X, and so does I-X that does not follow a word of the same kind.
    """
    found, begin, kind = set(), 0, ""
    for i, tag in enumerate([*tags, "O"]):
        prefix, of = (tag[:1], tag[2:]) if tag[:2] in ("B-", "I-") else ("O", "")
        if kind and (prefix != "I" or of != kind):
            found.add((kind, begin, i))
            kind = ""
        if prefix != "O" and not kind:
            begin, kind = i, of
    return found


Task = TokenClassification
