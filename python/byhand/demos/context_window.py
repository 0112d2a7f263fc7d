"""The context window: prompt and answer share it, and nothing is cut silently."""

from __future__ import annotations

from typing import Any

import numpy as np

from byhand import GPT, GPTConfig
from byhand.demos import demo
from byhand.text import BPETokenizer, CharacterTokenizer

TEXT = (
    "The context window is what a model sees at once. The prompt and the answer share it: the "
    "longer the prompt is, the shorter is the answer that still fits. A word is one token or "
    "several, so a window of a thousand tokens holds fewer words than that. "
)
CONTEXT = 48


class ContextWindow(demo.Demo):
    about = "a context of 48 tokens: what becomes of a longer text, and tokens per word"
    rows = ("C31",)

    def __init__(self) -> None:
        words = len(TEXT.split())
        tokenizers: dict[str, Any] = {"characters": CharacterTokenizer.from_text(TEXT)}
        for size in (280, 320, 400):
            tokenizers[f"BPE, {size} tokens"] = BPETokenizer.train(TEXT, size)
        self.per_word = {
            name: len(tokenizer.encode(TEXT)) / words for name, tokenizer in tokenizers.items()
        }
        tokenizer = tokenizers["BPE, 400 tokens"]
        self.ids = tokenizer.encode(TEXT)
        config = GPTConfig(len(tokenizer), CONTEXT, 24, 3, 2)
        self.model = GPT(config, seed=0).inference()
        self.error = ""
        try:
            self.model(self.ids[None])
        except ValueError as error:
            self.error = str(error)
        self.answers = {
            prompt: self.model.generate(
                self.ids[:prompt], max_new_tokens=2 * CONTEXT, overflow="window"
            )[0, prompt:]
            for prompt in (8, 40)
        }

    def text(self) -> str:
        rows = [(name, f"{tokens:.2f}") for name, tokens in self.per_word.items()]
        fits = [
            f"  a prompt of {prompt} tokens leaves {CONTEXT - prompt}; the other "
            f"{len(answer) - CONTEXT + prompt} of {len(answer)} came after the window moved"
            for prompt, answer in self.answers.items()
        ]
        return (
            f"A text of {len(TEXT.split())} words, and tokens per word with four tokenizers:\n"
            f"{demo.table(rows)}\n\n"
            f"A model with a context of {CONTEXT} tokens refuses the text's {len(self.ids)}:\n"
            f"  {self.error}\n\n"
            "When it generates, a full window drops its older half and goes on:\n" + "\n".join(fits)
        )

    def draw(self, figure: demo.Figure) -> None:
        axes = figure.subplots()
        names = list(self.per_word)
        axes.barh(np.arange(len(names)), list(self.per_word.values()), tick_label=names)
        axes.set_xlabel("tokens per word")


Demo = ContextWindow
