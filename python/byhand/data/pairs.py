"""Pairs of texts for next sentence prediction (Devlin et al., 2018, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from byhand.data.dataset import Batch, checked_indices
from byhand.data.sequences import SequenceDataset
from byhand.errors import UserError
from byhand.ops import philox
from byhand.values import require_whole_number

Ids = npt.NDArray[np.int64]


def split_documents(text: str) -> list[list[str]]:
    """The sentences of each document of a text: a line is a sentence, and an empty line ends a
    document.
    """
    documents: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.strip():
            documents[-1].append(line.strip())
        elif documents[-1]:
            documents.append([])
    return [document for document in documents if document]


class SentencePairs:
    """[CLS] A [SEP] B [SEP], where A is some sentences of a document, and B with probability 1/2
    the sentences after them (next_sentence_label 0), else sentences of another document (1).

    Item i begins at sentence i % n of those that have a successor in their document. Its lengths
    and B are drawn by Philox from (seed, i) alone. A has at least one sentence,
    and B as many as fit the width; where one of each does not fit, the end of the longer is cut.
    """

    def __init__(
        self,
        documents: Sequence[Sequence[npt.ArrayLike]],
        cls: int,
        sep: int,
        width: int,
        pad: int = 0,
        seed: int = 0,
        variants: int = 1 << 20,
    ) -> None:
        """
        Args:
            documents: the ids of the sentences of each document.
            cls, sep, pad: the ids of [CLS], [SEP] and padding.
            width: the most tokens of a pair.

        UserError if there are fewer than two documents, or none has two sentences.
        """
        require_whole_number("the width of a pair", width, 5)
        require_whole_number("the number of variants", variants, 1)
        self._documents = [
            [row for row in map(np.asarray, document) if len(row)] for document in documents
        ]
        self._documents = [document for document in self._documents if document]
        if len(self._documents) < 2:
            raise UserError("pairs of sentences need two documents, divided by an empty line")
        self._starts = [
            (d, s) for d, rows in enumerate(self._documents) for s in range(len(rows) - 1)
        ]
        if not self._starts:
            raise UserError("pairs of sentences need a document of two lines")
        self._cls, self._sep, self._pad, self.width = cls, sep, pad, width
        self._seed, self._variants = seed, variants

    def __len__(self) -> int:
        return len(self._starts) * self._variants

    def batch(self, indices: npt.ArrayLike) -> Batch:
        """Items `indices` (B,): "ids", "segments" (B, T), "lengths", "next_sentence_label" (B,)."""
        made = [self._pair(i) for i in checked_indices(indices, len(self)).tolist()]
        rows = [np.concatenate([[self._cls], a, [self._sep], b, [self._sep]]) for a, b, _ in made]
        segments = [np.repeat([0, 1], [len(a) + 2, len(b) + 1]) for a, b, _ in made]
        batch = SequenceDataset(rows, self._pad, segments).batch(np.arange(len(rows)))
        batch["next_sentence_label"] = np.array([label for _, _, label in made], np.int64)
        return batch

    def _pair(self, item: int) -> tuple[Ids, Ids, int]:
        words = philox.words(np.arange(2), self._seed, item).reshape(-1).tolist()
        d, s = self._starts[item % len(self._starts)]
        room = self.width - 3
        rows = self._documents[d]
        most = 1 + words[0] % room  # of A, so that A and B are of all lengths
        a, end = _taken(rows, s, min(most, room // 2), len(rows) - 1)
        label = words[1] & 1
        if label:
            other = words[2] % (len(self._documents) - 1)
            other += other >= d
            rows = self._documents[other]
            end = words[3] % len(rows)
        b, _ = _taken(rows, end, room - len(a), len(rows))
        a = a[: max(room // 2, room - len(b))]
        return a, b[: room - len(a)], label


def _taken(rows: Sequence[Ids], start: int, most: int, stop: int) -> tuple[Ids, int]:
    """The sentences from `start` on that have at most so many tokens, at least the first, and the
    number of the sentence after them.
    """
    end, size = start + 1, len(rows[start])
    while end < stop and size + len(rows[end]) <= most:
        size += len(rows[end])
        end += 1
    return np.concatenate(rows[start:end]), end
