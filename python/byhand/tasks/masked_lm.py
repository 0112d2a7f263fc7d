"""The masked language model task: predict tokens that were masked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from byhand import backend
from byhand.backend import Array
from byhand.ops.check import IGNORED
from byhand.tasks.encoder_task import EncoderTask
from byhand.tasks.task import Batch

if TYPE_CHECKING:
    from byhand.data import MaskedDataset
    from byhand.text.tokenizer import Tokenizer


class MaskedLM(EncoderTask):
    """Batches of "ids" and "labels", (B, T) int64, as `data.MaskedDataset` makes them: the former
    ids of the masked tokens, else -100; "lengths" (B,) and "segments" (B, T) where there are any;
    "positions" where only these have labels; "sequences" (B, T) of packed rows. The model is a
    `byhand.Bert` with the head "mlm".

    The unit is a masked token: a batch without one counts 0. Metrics: loss, and accuracy, the part
    of the masked tokens that are predicted.

    Args:
        tokenizer, samples: needed for ``sample``, which shows a row of this data set.
    """

    head = "mlm"
    optional = ("lengths", "segments", "positions", "sequences")
    inputs = ("ids", "lengths", "segments", "sequences")
    unit = "masked token"
    loss_unit = "nats per masked token"

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer | None = None,
        samples: MaskedDataset | None = None,
    ):
        super().__init__(model)
        self.tokenizer, self.samples = tokenizer, samples

    def metrics(self, batch: Batch) -> dict[str, tuple[float, int]]:
        found = super().metrics(batch)
        inputs = self._inputs(self.on_device(batch))
        right = masked_right(self.model, self._fields(batch), inputs)
        found["accuracy"] = (float(right), self.count(batch))
        return found

    def sample(self, rng: np.random.Generator, stop: Any = False) -> str | None:
        """A row of the samples, with what the model puts for each masked token: [wolf], or
        [wolf; it was bear]. None without a tokenizer or samples.
        """
        if self.tokenizer is None or self.samples is None:
            return None
        batch = self.samples.batch([int(rng.integers(len(self.samples)))])
        ids, labels = batch["ids"][0].copy(), batch["labels"][0]
        if "positions" in batch:
            kept, labels = labels, np.full_like(ids, IGNORED)
            counted = kept != IGNORED
            labels[batch["positions"][0][counted]] = kept[counted]
        at = np.flatnonzero(labels != IGNORED)
        there = self.on_device({**batch, "positions": at})
        logits = self.model.logits_at(**self._inputs(there), positions=there["positions"])
        best = dict(zip(at.tolist(), backend.to_numpy(logits).argmax(-1).tolist(), strict=True))
        length = int(batch["lengths"][0]) if "lengths" in batch else len(ids)
        return self._shown(ids[:length], labels, best)

    def _shown(self, ids: Any, labels: Any, best: dict[int, int]) -> str:
        assert self.tokenizer is not None
        pieces: list[str] = []
        start = 0
        for at in [*sorted(best), len(ids)]:
            if at > start:
                pieces.append(self.tokenizer.decode(ids[start:at]))
            if at < len(ids):
                guess, was = (
                    self.tokenizer.decode(np.array([one])) for one in (best[at], labels[at])
                )
                pieces.append(f"[{guess}]" if guess == was else f"[{guess}; it was {was}]")
            start = at + 1
        return " ".join(pieces)


def masked_right(model: Any, host: dict[str, Array], inputs: dict[str, Array]) -> int:
    """How many masked tokens of a batch, which is on the host, the model predicts from its inputs,
    which are on the device.
    """
    labels = backend.to_numpy(host["labels"]).reshape(-1)
    at = np.flatnonzero(labels != IGNORED)
    if not len(at):
        return 0
    positions = backend.to_numpy(host["positions"]).reshape(-1)[at] if "positions" in host else at
    positions = backend.to_device_of(positions, inputs["ids"])
    logits = model.logits_at(**inputs, positions=positions)
    return int((backend.to_numpy(logits).argmax(-1) == labels[at]).sum())


Task = MaskedLM
