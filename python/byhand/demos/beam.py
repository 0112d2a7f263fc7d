"""Beam search: the text that greedy search misses, because its first token is not the likeliest."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np

from byhand import nn
from byhand.demos import demo
from byhand.generation import generate

WORDS = ("the", "dog", "nice", "runs")
# The probability of the next word (columns) after each word (rows).
NEXT = np.array(
    [
        [0.02, 0.50, 0.46, 0.02],
        [0.30, 0.10, 0.25, 0.35],
        [0.02, 0.90, 0.06, 0.02],
        [0.70, 0.10, 0.10, 0.10],
    ]
)
NEW = 3


class Bigrams(nn.Module):
    """A language model whose next token depends on the last one only: the logits are a row of an
    embedding table.
    """

    def __init__(self, probabilities: np.ndarray) -> None:
        size = len(probabilities)
        self.config = SimpleNamespace(vocabulary_size=size, context_size=64)
        self.table = nn.Embedding(size, size)
        self.build(dtype="float64")
        self.table.weight.value[...] = np.log(probabilities)

    def decoder(self, ids: Any, cache: Any = None) -> Any:
        return self.table(ids)

    def head(self, hidden: Any) -> Any:
        return hidden

    def new_cache(self, batch_size: int = 1) -> None:
        return None


class BeamSearch(demo.Demo):
    about = "beam search: 1 to 4 beams, and all texts of three words"
    rows = ("E15",)

    def __init__(self) -> None:
        self.model = Bigrams(NEXT)
        self.found = {
            beams: generate(self.model, [0], max_new_tokens=NEW, num_beams=beams, use_cache=False)[
                0
            ]
            for beams in (1, 2, 3, 4)
        }
        texts = [(0, *tail) for tail in np.ndindex((len(WORDS),) * NEW)]
        self.all = sorted(((self.probability(text), text) for text in texts), reverse=True)

    def probability(self, text: Any) -> float:
        return float(np.prod([NEXT[a, b] for a, b in pairwise(text)]))

    def text(self) -> str:
        def words(text: Any) -> str:
            return " ".join(WORDS[token] for token in text)

        table = [("after", *WORDS)]
        table += [(word, *row) for word, row in zip(WORDS, NEXT, strict=True)]
        found = [
            (f"{beams} beam{'s' if beams > 1 else ''}", words(text), self.probability(text))
            for beams, text in self.found.items()
        ]
        best = [("", words(text), p) for p, text in self.all[:3]]
        return (
            f"The probability of the next word:\n{demo.table(table)}\n\n"
            f'The most probable text of {NEW} words after "the", and its probability:\n'
            f"{demo.table(found)}\n\n"
            "One beam is greedy search: it takes the likeliest word each time. With two, the less\n"
            "likely first word is kept, and the better text that begins with it is found.\n\n"
            f"The best of all {len(self.all)} texts:\n{demo.table(best)}"
        )

    def draw(self, figure: demo.Figure) -> None:
        axes = figure.subplots()
        chances = [self.probability(text) for text in self.found.values()]
        axes.bar(np.arange(4), chances, tick_label=[str(n) for n in self.found])
        axes.axhline(self.all[0][0], color="gray", linestyle="--")
        axes.set(xlabel="beams", ylabel="probability of the text found")


Demo = BeamSearch
