"""A whole GPT: shapes, the number of parameters, and the probabilities of the next token."""

from __future__ import annotations

import numpy as np

from byhand.demos import demo
from byhand.models.gpt import GPT, PRESETS, GPTConfig
from byhand.ops import softmax

VOCABULARY = 65  # the characters of Tiny Shakespeare
B, T = 2, 8


class Transformer(demo.Demo):
    about = "a GPT: shapes, number of parameters, probabilities of the next token"
    rows = ("D16",)

    def __init__(self) -> None:
        tiny = GPTConfig(VOCABULARY, **PRESETS["tiny"].model)
        model = GPT(tiny, seed=0).inference()
        self.ids = np.random.default_rng(0).integers(0, VOCABULARY, (B, T))
        self.x = model.decoder.tokens(self.ids)
        block = model.decoder.blocks[0]
        self.after = block(self.x)
        self.parts = [
            (name, getattr(block, name).num_parameters())
            for name in ("norm1", "attention", "norm2", "ffn")
        ]
        self.logits = model(self.ids)
        self.p = softmax.forward(self.logits)[0]
        self.counts = []
        for name in ("tiny", "guide"):
            config = GPTConfig(VOCABULARY, **PRESETS[name].model)
            # Without drawing weights, which would only take time.
            built = GPT(config, draw=False).num_parameters()
            self.counts.append((name, formula(config), built))

    def text(self) -> str:
        shapes = [
            ("ids", str(self.ids.shape), "tokens"),
            ("embeddings", str(self.x.shape), "a vector for each token"),
            ("after a block", str(self.after.shape), "the same shape after every block"),
            ("logits", str(self.logits.shape), "a score for each token of the vocabulary"),
        ]
        counts = [
            (f"preset {name}", f"{by_formula:,}", f"{built:,}")
            for name, by_formula, built in self.counts
        ]
        last, total = self.p[0, -1], self.p[0, -1].sum()
        return (
            f"The preset tiny, a batch of {B} texts of {T} tokens:\n{demo.table(shapes)}\n\n"
            "A block is x + attention(norm1(x)), then x + ffn(norm2(x)); parameters of its parts:\n"
            f"{demo.table((name, f'{count:,}') for name, count in self.parts)}\n\n"
            "Parameters: 12 C^2 + 13 C in each of L blocks, (V + T) C in the embeddings, 2 C in "
            "the last norm;\nthe head has the matrix of the embedding.\n"
            f"{demo.table([('', 'formula', 'counted'), *counts])}\n\n"
            "Probabilities of the token after the last one, from a model that has learned nothing\n"
            f"byhand:    sum [{', '.join(f'{p:.2f}' for p in last[:4])}, ..., {last[-1]:.2f}]"
            f" = {total:.1f}\n"
            "the guide: sum [0.03, 0.08, 0.05, 0.02, ..., 0.05] = 1.0"
        )

    def draw(self, figure: demo.Figure) -> None:
        axes = figure.add_subplot(title="probabilities of the next token", xlabel="id of the token")
        axes.bar(range(VOCABULARY), self.p[0, -1])
        axes.axhline(1 / VOCABULARY, color="black", linewidth=0.5, label="1 / vocabulary")
        axes.legend()


def formula(c: GPTConfig) -> int:
    """The number of parameters of a GPT with biases whose head shares the embedding's matrix."""
    C = c.embedding_dim
    blocks = c.num_layers * (12 * C * C + 13 * C)
    return blocks + (c.vocabulary_size + c.context_size) * C + 2 * C


Demo = Transformer
