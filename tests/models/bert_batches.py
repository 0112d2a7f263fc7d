"""Small BERTs with random weights, and batches for each head."""

from __future__ import annotations

from typing import Any

import numpy as np

from byhand import Bert, BertConfig

# Every dimension differs, so that swapped axes make a test fail.
SIZES: dict[str, Any] = dict(
    vocab_size=19,
    hidden_size=12,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=17,
    max_position_embeddings=11,
    type_vocab_size=2,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
HEADS = (None, "mlm", "pretraining", "classification", "tokens", "span", "embedding")
LOSSES = HEADS[1:6]
B, T, LABELS = 4, 7, 5
LENGTHS = np.array([7, 3, 1, 5])


def make(head: str | None, seed: int = 0, dtype: str = "float64", **options: Any) -> Bert:
    """A small BERT whose parameters are all random, norms and biases too."""
    made = {key: options.pop(key) for key in ("recompute", "precision") if key in options}
    config = BertConfig(**SIZES).replace(**options)
    model = Bert(config, head, LABELS, seed=seed, **made)
    rng = np.random.default_rng(seed + 100)
    for p in model.parameters():
        p.value += rng.standard_normal(p.shape, dtype=np.float32) * np.float32(0.2)
    return model.to(dtype=dtype)


def inputs(seed: int = 1) -> dict[str, np.ndarray]:
    """ids, lengths and segments; no id is that of padding."""
    rng = np.random.default_rng(seed)
    return {
        "ids": rng.integers(1, SIZES["vocab_size"], (B, T)),
        "lengths": LENGTHS.copy(),
        "segments": rng.integers(0, 2, (B, T)),
    }


def there(lengths: np.ndarray = LENGTHS) -> np.ndarray:
    return np.arange(T) < lengths[:, None]


def batch(head: str | None, seed: int = 1, multiple: bool = False) -> dict[str, np.ndarray]:
    """The arguments of ``loss``; with `multiple` several labels of an example."""
    rng = np.random.default_rng(seed + 1000)
    made = inputs(seed)
    if head in ("mlm", "pretraining", "tokens"):
        labels = rng.integers(0, LABELS if head == "tokens" else SIZES["vocab_size"], (B, T))
        labels[~there() | (rng.random((B, T)) < 0.4)] = -100
        labels[0, 2] = 3
        made["labels"] = labels
    if head == "pretraining":
        made["next_sentence_label"] = rng.integers(0, 2, B)
    if head == "classification":
        made["labels"] = rng.integers(0, LABELS, B)
        if multiple:
            made["labels"] = rng.integers(0, 2, (B, LABELS)).astype(np.float64)
    if head == "span":
        made["labels"] = np.sort(rng.integers(0, LENGTHS[:, None], (B, 2)), axis=1)
    return made


def relative_error(a: Any, b: Any) -> float:
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30))


def outputs(y: Any) -> tuple[np.ndarray, ...]:
    return y if isinstance(y, tuple) else (y,)
