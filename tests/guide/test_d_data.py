"""Rows D01 to D05: a GPT that writes lines of a play, and what it learns from."""

from __future__ import annotations

import re

import numpy as np
import pytest

from byhand import GPT, GPTConfig, data, nn, optim
from byhand.data import EpochSampler, WindowDataset
from byhand.demos.batches import EXAMPLES, Batches
from byhand.demos.pairs import SENTENCE, Pairs
from byhand.demos.positions import PLACES, Positions
from byhand.generation import generate
from byhand.nn import init, positions
from byhand.ops import embedding
from byhand.tasks import LanguageModel
from byhand.text import CharacterTokenizer
from tests.guide.planted import planted

SPEAKERS = ("ROMEO", "JULIET", "NURSE")
WORDS = "but soft what light my lady o speak again good night".split()


def play(lines: int = 400) -> str:
    """A text like the guide's: a speaker's name and a colon, then a line of words."""
    rng = np.random.default_rng(0)
    return "".join(
        f"{rng.choice(SPEAKERS)}:\n{' '.join(rng.choice(WORDS, rng.integers(2, 5)))}.\n\n"
        for _ in range(lines)
    )


def not_shifted(right):
    def batch(dataset, indices):
        found = right(dataset, indices)
        return {**found, "targets": found["ids"]}

    return batch


@planted("D01", "the targets are the inputs, not shifted", WindowDataset, "batch", not_shifted)
def test_d01_a_small_gpt_writes_lines_of_speakers():
    """A character-level GPT, trained on a play, continues the prompt "ROMEO:" as a play."""
    text = play()
    tokenizer = CharacterTokenizer.from_text(text)
    windows = WindowDataset(tokenizer.encode(text), 32)
    model = GPT(GPTConfig(len(tokenizer), 32, 48, 4, 2), seed=0)
    task, optimizer = LanguageModel(model, tokenizer), optim.AdamW(model, lr=4e-3)
    sampler = data.RandomSampler(len(windows), 16)
    for _ in range(150):
        batch = windows.batch(next(sampler))
        model.zero_grad()
        task.loss(batch, 1 / task.count(batch))
        task.backward()
        optimizer.step(clip_norm=1.0)
    prompt = tokenizer.encode("ROMEO:")
    names = {"max_new_tokens": 300, "do_sample": True, "temperature": 0.5, "overflow": "window"}
    written = generate(model, prompt, **names)[0]
    spoken = re.findall(r"^([A-Z]+):$", tokenizer.decode(written), re.MULTILINE)
    assert len(spoken) > 5
    assert np.mean([name in SPEAKERS for name in spoken]) > 0.6


@planted("D02", "the targets are the inputs, not shifted", WindowDataset, "batch", not_shifted)
def test_d02_a_sentence_is_seven_pairs_shifted_by_one():
    """All pairs of the guide's sentence, and y[t] == x[t + 1]."""
    assert SENTENCE == "The core innovation of Transformers is the attention."
    found = Pairs()
    assert [(" ".join(seen), target) for seen, target in found.pairs] == [
        ("The", "core"),
        ("The core", "innovation"),
        ("The core innovation", "of"),
        ("The core innovation of", "Transformers"),
        ("The core innovation of Transformers", "is"),
        ("The core innovation of Transformers is", "the"),
        ("The core innovation of Transformers is the", "attention"),
    ]
    batch = WindowDataset(np.random.default_rng(0).integers(0, 99, 50), 9).batch(range(41))
    assert np.array_equal(batch["targets"][:, :-1], batch["ids"][:, 1:])
    assert np.array_equal(batch["targets"][:-1], batch["ids"][1:])


def without_the_rest(right):
    def init(sampler, length, batch_size, seed=0, drop_last=False):
        right(sampler, length, batch_size, seed, drop_last=length > batch_size)

    return init


@planted("D03", "the last, smaller batch is left out", EpochSampler, "__init__", without_the_rest)
def test_d03_the_loss_fluctuates_less_in_larger_batches():
    """The three modes of the guide, and a last batch that is smaller."""
    found = Batches()
    of_all, of_64, of_one = found.deviation.values()
    assert of_all < 1e-6
    assert of_64 == pytest.approx(of_one * np.sqrt((EXAMPLES - 64) / (EXAMPLES - 1) / 64), rel=0.15)
    steps = {name: np.abs(np.diff(losses)).mean() for name, losses in found.losses.items()}
    assert steps["whole data set"] < 0.2 * steps["mini-batch"]
    assert steps["mini-batch"] < 0.3 * steps["one example"]
    for losses in found.losses.values():
        assert np.mean(losses[-100:]) < 0.4 * np.mean(losses[:20])
    assert found.epoch == [64] * 7 + [52]


@planted(
    "D04", "the rows come in the opposite order", embedding, "forward",
    lambda right: lambda ids, *rest: right(np.ascontiguousarray(ids[::-1]), *rest),
)  # fmt: skip
def test_d04_an_embedding_is_a_row_of_a_table():
    """The guide's table of 10,000 tokens and 75 numbers, and its three ids."""
    layer = nn.Embedding(10_000, 75).build(seed=0)
    ids = np.array([348, 1978, 634])
    vectors = layer(ids)
    assert vectors.shape == (3, 75)
    assert np.array_equal(vectors, layer.weight.value[ids])
    assert np.array_equal(layer(np.array([634, 5, 634]))[[0, 2]], vectors[[2, 2]])
    for bad in (10_000, -1):
        words = rf"ids\[1\] = {bad} is outside the vocabulary 0..9999"
        with pytest.raises(IndexError, match=words):
            layer(np.array([0, bad]))


def cosines_first(right):
    def table(length, dim, base=10000.0, start=0):
        return np.roll(right(length, dim, base, start), 1, axis=1)

    return table


@planted("D05", "the cosines come first", positions, "sinusoids", cosines_first)
@planted(
    "D05", "embeddings are not scaled", nn.Embedding, "__init__",
    lambda right: lambda self, num, dim, scale=1.0, **more: right(self, num, dim, **more),
)  # fmt: skip
def test_d05_positions_are_added_and_neither_term_dominates():
    """Fixed and learned positions, an odd width, the end of the context, and sizes of both terms.

    The guide adds a learned table; its text on initial values asks for terms of similar size.
    """
    width, context, length = 75, 64, 20
    tokens = nn.Embedding(100, width).build(seed=0)
    ids = np.random.default_rng(0).integers(0, 100, (2, length))
    x = tokens(ids)
    fixed, learned = nn.SinusoidalPositions(width), nn.LearnedPositions(context, width).build()
    sums = fixed(x), learned(x)
    for column in range(width):
        angles = np.arange(length) / 10000 ** (2 * (column // 2) / width)
        table = np.cos(angles) if column % 2 else np.sin(angles)
        np.testing.assert_allclose(sums[0][:, :, column] - x[:, :, column], [table] * 2, atol=1e-5)
    np.testing.assert_allclose(sums[1], x + learned.weight.value[:length], atol=1e-6)
    learned(np.zeros((1, context, width), np.float32))
    message = "LearnedPositions: 65 positions do not fit the context of 64"
    with pytest.raises(ValueError, match=message):
        learned(np.zeros((1, context + 1, width), np.float32))
    small = init.Normal(width**-0.5)
    scaled = nn.Embedding(100, width, scale=width**0.5, weight_init=small).build(seed=0)
    of_fixed = np.sqrt(np.mean((sums[0] - x) ** 2))
    assert of_fixed == pytest.approx(np.sqrt(1 / 2), rel=0.1)
    for term in (x, scaled(ids), sums[1] - x):
        assert 0.5 < np.sqrt(np.mean(term**2)) / of_fixed < 2
    found = Positions()
    distances = np.array([i - j for i, j in PLACES])
    for distance in set(distances):
        same = np.array(found.products)[distances == distance]
        assert np.ptp(same) < 1e-12
    assert [tokens > 0.5 * places for tokens, places in found.sizes] == [True, False, False, True]
