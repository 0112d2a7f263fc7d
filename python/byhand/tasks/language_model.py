"""The language-model task: predict the next token of a text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from byhand import backend
from byhand.backend import Array
from byhand.ops.check import IGNORED
from byhand.tasks import task
from byhand.tasks.task import Batch
from byhand.text.lengths import Lengths, token_lengths
from byhand.text.tokenizer import plain_ids

if TYPE_CHECKING:
    from byhand.text.tokenizer import Tokenizer


class LanguageModel(task.Task):
    """Batches of "ids" and "targets", each (B, T) int64; a target of -100 does not count. With
    "sequences", as `byhand.data.pack` makes them, several sequences are packed in a row.

    The model has ``loss(ids, targets, scale, sequences)``, ``check(ids, targets)`` and
    ``backward()``, as `byhand.GPT` has.

    Args:
        tokenizer: needed for ``sample``, which generates a text, and for the losses per character
            and per byte among the metrics.
        sample_tokens: how many tokens ``sample`` generates.
    """

    unit = "token"

    def __init__(self, model: Any, tokenizer: Tokenizer | None = None, sample_tokens: int = 200):
        if not hasattr(model, "loss"):
            raise TypeError(
                f"LanguageModel takes a model with loss(ids, targets), such as GPT, got "
                f"{type(model).__name__}"
            )
        super().__init__(model)
        self.model: Any = model
        self.tokenizer = tokenizer
        self.sample_tokens = sample_tokens
        characters = tokenizer is not None and tokenizer.kind == "character"
        self._lengths: tuple[Lengths, Lengths] | None = None
        self.loss_unit = "nats per character" if characters else "nats per token"

    def check(self, batch: Batch) -> None:
        self.model.check(*self._taken(batch, "ids", "targets"))

    def count(self, batch: Batch) -> int:
        return int(np.count_nonzero(self._taken(batch, "targets")[0] != IGNORED))

    def loss(self, batch: Batch, scale: Any) -> Array:
        ids, targets = self._taken(batch, "ids", "targets")
        if "sequences" not in batch:
            return self.model.loss(ids, targets, scale)
        return self.model.loss(ids, targets, scale, *self._taken(batch, "sequences"))

    def backward(self) -> None:
        self.model.backward()

    def metrics(self, batch: Batch) -> dict[str, tuple[float, int]]:
        """See `Task`. With a tokenizer also "loss_per_character" and "loss_per_byte", in nats: the
        same sum divided by the length of the text of the targets, to compare tokenizers by.
        """
        found = super().metrics(batch)
        if self.tokenizer is not None:
            if self._lengths is None:
                self._lengths = token_lengths(self.tokenizer)
            targets = backend.to_numpy(self._taken(batch, "targets")[0])
            counted = targets[targets != IGNORED]
            for unit, lengths in zip(("character", "byte"), self._lengths, strict=True):
                found[f"loss_per_{unit}"] = found["loss"][0], int(lengths[counted].sum())
        return found

    def sample(self, rng: np.random.Generator, stop: Any = False) -> str | None:
        """A text generated from the prompt ``tokenizer.start``; None without a tokenizer."""
        if self.tokenizer is None or not self.sample_tokens:
            return None
        from byhand.generation import stream_ids

        prompt = plain_ids(self.tokenizer, self.tokenizer.start)
        written = []
        for token in stream_ids(
            self.model,
            prompt,
            max_new_tokens=self.sample_tokens,
            do_sample=True,
            seed=int(rng.integers(2**63)),
            overflow="window",
        ):
            if stop:
                break
            written.append(token)
        return self.tokenizer.decode(np.array(written, dtype=np.int64))


Task = LanguageModel
