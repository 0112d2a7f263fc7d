"""BERT's pretraining task: masked tokens, and whether a text follows another."""

from __future__ import annotations

from byhand import backend
from byhand.tasks.encoder_task import EncoderTask
from byhand.tasks.masked_lm import masked_right
from byhand.tasks.task import Batch


class Pretraining(EncoderTask):
    """Batches as `data.MaskedDataset(data.SentencePairs(...), ..., variants=1)` makes them:
    "ids", "labels", "segments" (B, T), "lengths", "next_sentence_label" (B,), int64. The model is
    a `byhand.Bert` with the head "pretraining".

    The unit is a pair; the loss of a batch is that of its masked tokens plus that of its pairs,
    each a mean. With several batches in a step each counts as much as it has pairs. Metrics: loss,
    masked_accuracy and next_sentence_accuracy.
    """

    head = "pretraining"
    required = ("ids", "labels", "next_sentence_label")
    optional = ("lengths", "segments", "positions")
    unit = "pair"
    loss_unit = "nats per masked token + nats per pair"

    def count(self, batch: Batch) -> int:
        return len(self._fields(batch)["ids"])

    def metrics(self, batch: Batch) -> dict[str, tuple[float, int]]:
        found, host = super().metrics(batch), self._fields(batch)
        inputs = self._inputs(self.on_device(batch))
        right = masked_right(self.model, host, inputs)
        found["masked_accuracy"] = (float(right), super().count(batch))
        logits = backend.to_numpy(self.model.next_sentence_logits(**inputs))
        right = int((logits.argmax(-1) == host["next_sentence_label"]).sum())
        found["next_sentence_accuracy"] = (float(right), len(logits))
        return found


Task = Pretraining
