"""A language model whose next token depends on the last one by a table, small enough that all of
its texts can be listed.
"""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np


class TableModel:
    """Logits (V,) of the next token from a table (V, V), without a cache."""

    def __init__(self, table: Any) -> None:
        self.table = np.asarray(table, np.float64)
        size = len(self.table)
        self.config = SimpleNamespace(vocabulary_size=size, context_size=64)
        self.storage = SimpleNamespace(values=self.table)

    def new_cache(self, batch_size: int = 1) -> None:
        return None

    def in_decoding(self) -> Any:
        from contextlib import nullcontext

        return nullcontext()

    def decoder(self, ids: Any, cache: Any = None) -> Any:
        return self.table[ids]

    def head(self, hidden: Any) -> Any:
        return hidden

    def log_probability(self, text: Any, prompt: int = 1) -> float:
        logits = self.table - self.table.max(axis=1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return float(
            sum(log_p[a, b] for a, b in zip(text[prompt - 1 :], text[prompt:], strict=False))
        )

    def all_texts(self, prompt: list[int], new: int, eos: tuple[int, ...] = ()) -> list[list[int]]:
        """Every text of up to `new` tokens after the prompt: those that an end token ends, and
        those of the largest length.
        """
        found = []
        for length in range(1, new + 1):
            for tail in itertools.product(range(len(self.table)), repeat=length):
                ends = [token in eos for token in tail]
                if any(ends[:-1]) or not (ends[-1] or length == new):
                    continue
                found.append([*prompt, *tail])
        return found


def random_model(seed: int, size: int = 4, scale: float = 1.5) -> TableModel:
    return TableModel(np.random.default_rng(seed).normal(scale=scale, size=(size, size)))
