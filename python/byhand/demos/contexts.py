"""A word in two contexts: one id and one input vector, but two output vectors."""

from __future__ import annotations

import numpy as np

from byhand import Bert, BertConfig, optim
from byhand.data import MaskedDataset, SequenceDataset
from byhand.demos import demo
from byhand.text import WordPieceTokenizer

WORD = "date"
SENTENCES = ("the date is the fourth of may", "the date is a sweet brown fruit")
STEPS = 150


class Contexts(demo.Demo):
    about = "a word in two sentences: one id and input vector, two output vectors"
    rows = ("C30",)

    def __init__(self) -> None:
        self.tokenizer = WordPieceTokenizer.train(SENTENCES * 3, 200)
        self.ids = [self.tokenizer.encode(sentence) for sentence in SENTENCES]
        self.id = int(self.tokenizer.encode(WORD, add_special_tokens=False)[0])
        self.at = [row.tolist().index(self.id) for row in self.ids]
        config = BertConfig(
            len(self.tokenizer), 32, 2, 4, 64, max_position_embeddings=16, dropout=0.0
        )
        self.model = Bert(config, "mlm", seed=0)
        self._learn()
        encoder = self.model.inference().encoder
        self.inputs = [encoder.tokens.weight.value[self.id].copy() for _ in SENTENCES]
        self.outputs = [encoder(row[None])[0] for row in self.ids]
        self.guesses = [self._guess(row) for row in self.ids]

    def _learn(self) -> None:
        """Some steps of masked language modelling on the two sentences."""
        rows = MaskedDataset(
            SequenceDataset(self.ids, self.tokenizer.pad_token_id or 0),
            self.tokenizer.mask_token_id or 0,
            len(self.tokenizer),
            self.tokenizer.encode(""),
        )
        optimizer = optim.AdamW(self.model, lr=3e-3)
        for step in range(STEPS):
            self.model.zero_grad()
            self.model.loss(**rows.batch(np.arange(8) + 8 * step))
            self.model.backward()
            optimizer.step(clip_norm=1.0)

    def _guess(self, row: np.ndarray) -> list[tuple[str, float]]:
        """The most probable words in place of the last one, and their probabilities."""
        masked = row.copy()
        masked[-2] = self.tokenizer.mask_token_id
        logits = self.model(masked[None])[0, -2].astype(np.float64)
        p = np.exp(logits - logits.max())
        p /= p.sum()
        return [(self.tokenizer.decode([i]), float(p[i])) for i in p.argsort()[::-1][:3]]

    def vectors(self) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """What, its vector in the first sentence and in the second."""
        first, second = (y[i] for y, i in zip(self.outputs, self.at, strict=True))
        return [("input", self.inputs[0], self.inputs[1]), ("output", first, second)]

    def text(self) -> str:
        lines = [f'"{WORD}" has the id {self.id} in both sentences:\n']
        for sentence, row in zip(SENTENCES, self.ids, strict=True):
            lines.append(f"  {sentence}\n  -> {row.tolist()}\n")
        rows: list[tuple[object, ...]] = []
        for what, *both in self.vectors():
            rows += [(what, i + 1, *v[:4], "...", v[-1]) for i, v in enumerate(both)]
        lines.append(f"its vectors, of {len(self.inputs[0])} numbers, in sentence 1 and 2:")
        lines.append(demo.table(rows) + "\n")
        for what, a, b in self.vectors():
            cosine = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
            lines.append(f"cosine of the two {what} vectors: {cosine:.3f}")
        lines.append(f"\nprobabilities of the last word, masked, after {STEPS} steps of training:")
        for sentence, guesses in zip(SENTENCES, self.guesses, strict=True):
            shown = ", ".join(f"{word} {p:.3f}" for word, p in guesses)
            lines.append(f"  {sentence.rpartition(' ')[0]} [MASK]: {shown}")
        return "\n".join(lines)

    def draw(self, figure: demo.Figure) -> None:
        both = np.stack([v for _, *pair in self.vectors() for v in pair])
        names = [f"{what} {i}" for what, *_ in self.vectors() for i in (1, 2)]
        axes = figure.add_subplot(title=f'vectors of "{WORD}" in two sentences', xlabel="component")
        both = both / np.abs(both).max(axis=1, keepdims=True)
        image = axes.imshow(both, cmap="RdBu", aspect="auto", vmin=-1, vmax=1)
        axes.set_yticks(range(len(names)), names)
        figure.colorbar(image)


Demo = Contexts
