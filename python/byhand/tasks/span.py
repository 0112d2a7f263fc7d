"""The question answering task: find the answer of a question in a text."""

from __future__ import annotations

import re
import string
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from byhand import backend
from byhand.ops.check import IGNORED
from byhand.tasks.encoder_task import EncoderTask
from byhand.tasks.task import Batch

if TYPE_CHECKING:
    from byhand.data import QuestionDataset


class Span(EncoderTask):
    """Batches of "ids" (B, T), "lengths" (B,), "segments" (B, T) and "labels" (B, 2), the positions
    of the first and the last token of the answer, as `data.QuestionDataset` makes them. The model
    is a `byhand.Bert` with the head "span".

    The unit is a window of a context. Metrics: loss; and with ``data``, for batches of
    ``data.batches_of_questions``, exact_match and f1 of the answers (Rajpurkar et al., 2016,
    section 5). Of a question with several answers the best one counts.

    Args:
        data: the data set of the batches that are evaluated.
        longest: the most tokens of a predicted answer.
        samples: needed for ``sample``, which shows a question of this data set, the same as data.
    """

    head = "span"
    unit = "window"
    loss_unit = "nats per position"

    def __init__(
        self,
        model: Any,
        data: QuestionDataset | None = None,
        longest: int = 30,
        samples: QuestionDataset | None = None,
    ):
        super().__init__(model)
        self.data, self.longest, self.samples = data, longest, samples

    def count(self, batch: Batch) -> int:
        return int(np.count_nonzero(self._fields(batch)["labels"][:, 0] != IGNORED))

    def metrics(self, batch: Batch) -> dict[str, tuple[float, int]]:
        found = super().metrics(batch)
        if self.data is None or "windows" not in batch:
            return found
        exact = f1 = 0.0
        answers = self.answers(batch)
        for question, text in answers.items():
            right = self.data.examples[question]["answer"] or [""]
            exact += max(exact_match(text, one) for one in right)
            f1 += max(f1_of(text, one) for one in right)
        found["exact_match"] = (exact, len(answers))
        found["f1"] = (f1, len(answers))
        return found

    def sample(self, rng: np.random.Generator, stop: Any = False) -> str | None:
        """A question of the samples with the model's answer: "question -> answer", or "question ->
        answer (it was other)". None without samples.
        """
        if self.data is None or self.samples is None:
            return None
        question = int(rng.integers(len(self.data.examples)))
        windows = np.flatnonzero(self.data.question_of == question)
        with self.model.no_save():
            found = self.answers(self.data.batch(windows))[question]
        example = self.data.examples[question]
        right = example["answer"] or [""]
        was = "" if any(exact_match(found, one) for one in right) else f" (it was {right[0]})"
        return f"{example['question']} -> {found}{was}"

    def answers(self, batch: Batch) -> dict[int, str]:
        """The answer of the model to each question whose windows are in the batch: the span with
        the largest sum of its two logits. Where the data set has questions without an answer,
        [CLS] is the span of none, "".
        """
        assert self.data is not None
        logits = self.model(**self._inputs(self.on_device(self._fields(batch))))
        start, end = (backend.to_numpy(z).astype(np.float64) for z in logits)
        best: dict[int, tuple[float, str]] = {}
        for row, window in enumerate(batch["windows"].tolist()):
            first, stop = self.data.context_of(window)
            score, i, j = best_span(start[row, first:stop], end[row, first:stop], self.longest)
            text = self.data.text_between(window, first + i, first + j)
            none = start[row, 0] + end[row, 0]
            question = int(self.data.question_of[window])
            for value, answer in ((score, text), (none, "")):
                if answer == "" and not self.data.unanswered:
                    continue
                if question not in best or value > best[question][0]:
                    best[question] = value, answer
        return {question: text for question, (_, text) in best.items()}


def best_span(start: np.ndarray, end: np.ndarray, longest: int) -> tuple[float, int, int]:
    """The largest start[i] + end[j] with i <= j < i + longest, and i and j."""
    scores = start[:, None] + end[None, :]
    distance = np.arange(len(end)) - np.arange(len(start))[:, None]
    scores[(distance < 0) | (distance >= longest)] = -np.inf
    i, j = np.unravel_index(int(scores.argmax()), scores.shape)
    return float(scores[i, j]), int(i), int(j)


def normalised(text: str) -> str:
    """An answer as SQuAD compares it: in lower case, without punctuation, without the words a, an
    and the, and with single spaces.
    """
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(given: str, right: str) -> bool:
    """Whether two answers are the same once they are `normalised`."""
    return normalised(given) == normalised(right)


def f1_of(given: str, right: str) -> float:
    """The harmonic mean of precision and recall of the words of an answer, once `normalised`."""
    a, b = normalised(given).split(), normalised(right).split()
    if not a or not b:
        return float(a == b)
    both = sum((Counter(a) & Counter(b)).values())
    return 2 * both / (len(a) + len(b))


Task = Span
