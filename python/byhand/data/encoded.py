"""Labelled examples as token ids: rows for the tasks on texts, made with any tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from byhand.data.dataset import Batch
from byhand.data.examples import Examples, checked_examples
from byhand.data.sequences import SequenceDataset
from byhand.errors import UserError, suggestion
from byhand.ops.check import IGNORED
from byhand.values import require_whole_number

Ids = npt.NDArray[np.int64]


def _special(tokenizer: Any) -> tuple[int, int, int]:
    """The ids of [CLS], [SEP] and [PAD]. UserError if the tokenizer lacks one."""
    ids = []
    for role in ("cls", "sep", "pad"):
        found = getattr(tokenizer, f"{role}_token_id", None)
        if found is None:
            raise UserError(
                f"the tokenizer has no [{role.upper()}] token: train one with it, such as "
                "text.WordPieceTokenizer.train(texts)"
            )
        ids.append(int(found))
    return ids[0], ids[1], ids[2]


def _plain(tokenizer: Any, text: str) -> Ids:
    return np.asarray(tokenizer.encode(text, add_special_tokens=False), np.int64)


def labels_in(examples: Examples) -> list[str]:
    """The labels or tags of the examples, each once: in the order of their numbers if all are
    whole numbers, else in alphabetical order.
    """
    name = "tags" if examples.kind == "token_classification" else "label"
    found: set[str] = set()
    for example in examples:
        value = example[name]
        found.update([value] if isinstance(value, str) else value)
    whole = all(label.lstrip("-").isdecimal() for label in found)
    return sorted(found, key=int) if whole else sorted(found)


def _numbers(labels: Sequence[str]) -> dict[str, int]:
    return {label: i for i, label in enumerate(labels)}


def _number(where: str, label: str, numbers: Mapping[str, int]) -> int:
    if label not in numbers:
        known = ", ".join(list(numbers)[:10])
        raise UserError(f"{where}: unknown label {label!r}{suggestion(label, numbers)}: {known}")
    return numbers[label]


def classified(
    examples: Iterable[Mapping[str, Any]],
    tokenizer: Any,
    width: int,
    labels: Sequence[str] | None = None,
    fixed: bool = False,
) -> SequenceDataset:
    """Texts with labels as rows [CLS] text [SEP] of at most `width` tokens, whose ends are cut off,
    or [CLS] text [SEP] text_pair [SEP], where the longer text is cut. See `Examples`.

    "labels" of a batch are the numbers (B,) of the labels in `labels` (default: those of the
    examples, see `labels_in`), or with several labels of an example 0 and 1, float32 (B, len).
    With `fixed` every batch is `width` wide.
    """
    checked = checked_examples(examples, "classification")
    cls, sep, pad = _special(tokenizer)
    require_whole_number("the width", width, 5)
    numbers = _numbers(labels_in(checked) if labels is None else labels)
    several = any(isinstance(example["label"], list) for example in checked)
    rows, segments = [], []
    wanted: list[Any] = []
    for i, example in enumerate(checked):
        a = _plain(tokenizer, example["text"])
        b = _plain(tokenizer, example["text_pair"]) if "text_pair" in example else None
        if b is not None:
            most = width - 3  # tokens of both
            a = a[: max(most // 2, most - len(b))]
            b = b[: most - len(a)]
        a = a[: width - 2]
        rows.append(np.concatenate([[cls], a, [sep], *([] if b is None else [b, [sep]])]))
        segments.append(np.repeat([0, 1], [len(a) + 2, 0 if b is None else len(b) + 1]))
        given = example["label"]
        one = [given] if isinstance(given, str) else given
        found = [_number(f"example {i} of {checked.name}", label, numbers) for label in one]
        if several:
            row = np.zeros(len(numbers), np.float32)
            row[found] = 1
            wanted.append(row)
        else:
            wanted.append(found[0])
    targets = np.array(wanted, np.float32 if several else np.int64)
    return SequenceDataset(
        rows,
        pad,
        segments if any(s.any() for s in segments) else None,
        targets,
        width=width if fixed else None,
        name=checked.name,
    )


def tagged(
    examples: Iterable[Mapping[str, Any]],
    tokenizer: Any,
    width: int,
    tags: Sequence[str] | None = None,
    fixed: bool = False,
) -> SequenceDataset:
    """Words with tags as rows [CLS] words [SEP] of at most `width` tokens, whose ends are cut off.

    Each word is encoded alone. "labels" of a batch (B, T) have the number of a word's tag in `tags`
    (default: those of the examples) at its first token, and -100 at its other tokens, at special
    tokens and at padding. A word without tokens, such as one of white space, loses its tag.
    """
    checked = checked_examples(examples, "token_classification")
    cls, sep, pad = _special(tokenizer)
    require_whole_number("the width", width, 3)
    numbers = _numbers(labels_in(checked) if tags is None else tags)
    rows, targets = [], []
    known: dict[str, Ids] = {}
    for i, example in enumerate(checked):
        row, of_row = [np.array([cls])], [np.array([IGNORED])]
        for token, tag in zip(example["tokens"], example["tags"], strict=True):
            if token not in known:
                known[token] = _plain(tokenizer, token)
            ids = known[token]
            marks = np.full(len(ids), IGNORED)
            marks[:1] = _number(f"example {i} of {checked.name}", tag, numbers)
            row.append(ids)
            of_row.append(marks)
        rows.append(np.append(np.concatenate(row)[: width - 1], sep))
        targets.append(np.append(np.concatenate(of_row)[: width - 1], IGNORED))
    return SequenceDataset(
        rows, pad, token_labels=targets, width=width if fixed else None, name=checked.name
    )


class QuestionDataset(SequenceDataset):
    """Questions with answers in a context, as rows [CLS] question [SEP] context [SEP].

    A context that does not fit the width is cut into windows, each of which begins `stride` tokens
    before the end of the one before. "labels" (B, 2) are the positions of the first and the last
    token of the answer, found by its characters; those of a window without the whole answer are
    0, 0: [CLS] (as in BERT's run_squad). "windows" (B,) are the numbers of the rows.

    Attributes:
        examples: see `Examples`.
        question_of: which example each row is of (n,).
        unanswered: whether there is a question without an answer.
    """

    def __init__(
        self,
        examples: Iterable[Mapping[str, Any]],
        tokenizer: Any,
        width: int,
        stride: int | None = None,
        fixed: bool = False,
    ) -> None:
        """`stride`: default: a third of the width. UserError names what is wrong."""
        self.examples = checked_examples(examples, "span")
        cls, sep, pad = _special(tokenizer)
        require_whole_number("the width", width, 8)
        stride = width // 3 if stride is None else stride
        require_whole_number("the stride", stride, 0)
        rows, segments, labels, of, offsets = [], [], [], [], []
        for i, example in enumerate(self.examples):
            question = _plain(tokenizer, example["question"])[: width // 2]
            context = _plain(tokenizer, example["context"])
            places = np.asarray(tokenizer.offsets(example["context"], add_special_tokens=False))
            size = width - 3 - len(question)  # of a window, in tokens of the context
            if stride >= size:
                raise UserError(
                    f"the stride {stride} leaves no room in a window: with the question of example "
                    f"{i} of {self.examples.name} it holds {size} tokens of the context"
                )
            start, end = _tokens_of(example, places)
            for first in range(0, max(len(context) - stride, 1), size - stride):
                part = context[first : first + size]
                before = len(question) + 2
                rows.append(np.concatenate([[cls], question, [sep], part, [sep]]))
                segments.append(np.repeat([0, 1], [before, len(part) + 1]))
                inside = 0 <= start and first <= start and end < first + len(part)
                labels.append([start - first + before, end - first + before] if inside else [0, 0])
                of.append(i)
                offsets.append((before, places[first : first + size]))
        super().__init__(
            rows,
            pad,
            segments,
            np.array(labels, np.int64),
            width=width if fixed else None,
            name=self.examples.name,
        )
        self.question_of = np.array(of, np.int64)
        self.unanswered = any(not example["answer"] for example in self.examples)
        self._offsets = offsets

    def batch(self, indices: npt.ArrayLike) -> Batch:
        """See the class and `SequenceDataset`."""
        made = super().batch(indices)
        made["windows"] = np.asarray(indices, np.int64).copy()
        return made

    def batches_of_questions(self, batch_size: int) -> Iterable[Batch]:
        """The batches of `parts_of_questions`."""
        return (self.batch(part) for part in self.parts_of_questions(batch_size))

    def parts_of_questions(self, batch_size: int) -> list[Ids]:
        """The numbers of all rows in order, in parts for an evaluation: all windows of a question
        are in one part, which has more rows than `batch_size` only if one question has.
        """
        parts = []
        counts = np.bincount(self.question_of, minlength=len(self.examples))
        begin = end = 0
        for count in counts.tolist():
            if end > begin and end + count - begin > batch_size:
                parts.append(np.arange(begin, end))
                begin = end
            end += count
        return [*parts, np.arange(begin, end)]

    def context_of(self, window: int) -> tuple[int, int]:
        """The positions of the context in a row: first, and one after the last."""
        before, places = self._offsets[window]
        return before, before + len(places)

    def text_between(self, window: int, start: int, end: int) -> str:
        """The text of the context from the token at position `start` of a row to that at `end`."""
        before, places = self._offsets[window]
        context: str = self.examples[self.question_of[window]]["context"]
        return context[places[start - before][0] : places[end - before][1]]


def _tokens_of(example: Mapping[str, Any], places: Ids) -> tuple[int, int]:
    """The first and the last token of the context that has a character of the answer; -1 if there
    is no answer.
    """
    if not example["answer"]:
        return -1, -1
    begin = example["answer_start"]
    inside = (places[:, 1] > begin) & (places[:, 0] < begin + len(example["answer"][0]))
    found = np.flatnonzero(inside)
    return (int(found[0]), int(found[-1])) if len(found) else (-1, -1)
