"""Rows C26 to C31: the encoder, BERT's two tasks, training considerations, the context."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from byhand import GPT, Bert, BertConfig, GPTConfig, data, gradcheck, nn, optim
from byhand.demos.context_window import CONTEXT, ContextWindow
from byhand.models import causal_lm
from byhand.models.bert_encoder import Block, Encoder
from byhand.ops import attention
from byhand.tasks import LanguageModel, Pretraining
from byhand.text import WordPieceTokenizer
from byhand.training import evaluate
from tests.guide.planted import planted


def norm(x: np.ndarray, layer: Any) -> np.ndarray:
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + layer.eps) * layer.weight.value + layer.bias.value


def linear(x: np.ndarray, layer: Any) -> np.ndarray:
    return x @ layer.weight.value.T + layer.bias.value


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def block_by_hand(x: np.ndarray, block: Block, heads: int) -> np.ndarray:
    """A block for one sequence (T, C) without padding, head after head."""
    q, k, v = np.split(linear(x, block.attention.qkv), 3, axis=-1)
    seen = []
    for rows in np.split(np.arange(x.shape[1]), heads):
        weights = softmax(q[:, rows] @ k[:, rows].T / math.sqrt(len(rows)))
        seen.append(weights @ v[:, rows])
    x = norm(x + linear(np.concatenate(seen, -1), block.attention.project), block.norm1)
    return norm(x + linear(gelu(linear(x, block.ffn.up)), block.ffn.down), block.norm2)


@planted(
    "C26", "padding is attended to", attention, "forward",
    lambda right: lambda *given, lengths=None, **options: right(*given, **options),
)  # fmt: skip
def test_c26_an_encoder_is_attention_residuals_norms_and_a_feed_forward_part():
    config = BertConfig(19, 12, 2, 3, 17, context_size=9, dropout=0.0)
    encoder = Encoder(config).build(seed=1).to(dtype="float64")
    rng = np.random.default_rng(0)
    for p in encoder.parameters():
        p.value += rng.standard_normal(p.shape) * 0.3
    ids, segments = rng.integers(0, 19, (3, 7)), rng.integers(0, 2, (3, 7))
    lengths = np.array([7, 4, 2])
    found = encoder.inference()(ids, lengths, segments)
    for row, n in enumerate(lengths):
        tokens, kinds = ids[row, :n], segments[row, :n]
        x = encoder.tokens.weight.value[tokens] + encoder.positions.weight.value[:n]
        x = norm(x + encoder.segments.weight.value[kinds], encoder.norm)
        for block in encoder.blocks:
            x = block_by_hand(x, block, heads=3)
        np.testing.assert_allclose(found[row, :n], x, rtol=1e-9, atol=1e-12)
    gradcheck(Block(config), rng.standard_normal((2, 5, 12)))


WORDS = "paris london rome tokyo oslo".split()
VERBS = "sees likes follows paints carries hears".split()
TOKENIZER = WordPieceTokenizer.train([" ".join([*WORDS, *VERBS, "the"])] * 3, 200)


def documents(seed: int) -> list[list[np.ndarray]]:
    """Texts that are each about one town."""
    rng = np.random.default_rng(seed)
    made = []
    for town in WORDS * 6:
        rows = [f"the {town} {rng.choice(VERBS)} the {town}" for _ in range(6)]
        made.append([TOKENIZER.encode(row, add_special_tokens=False) for row in rows])
    return made


def pretraining_data(seed: int) -> data.MaskedDataset:
    t = TOKENIZER
    pairs = data.SentencePairs(
        documents(seed), t.cls_token_id, t.sep_token_id, 24, t.pad_token_id, seed
    )
    special = [t.cls_token_id, t.sep_token_id, t.pad_token_id, t.unk_token_id]
    return data.MaskedDataset(pairs, t.mask_token_id, len(t), special, seed=seed, variants=1)


@planted(
    "C27", "a token sees itself only", attention, "forward",
    lambda right: lambda *given, **options: right(*given, **{**options, "window": 1}),
)  # fmt: skip
def test_c27_bert_learns_masked_tokens_and_which_sentence_is_next():
    """Better than the frequencies of the tokens, and than chance: 0.5. In a fifth of the wrong
    pairs both texts are about the same town, so that about 91 % can be known.
    """
    config = BertConfig(
        vocab_size=len(TOKENIZER), hidden_size=32, num_layers=2, num_heads=4, intermediate_size=64,
        context_size=24, dropout=0.0,
    )  # fmt: skip
    learned, held_out = pretraining_data(0), pretraining_data(1).batch(np.arange(150))
    model = Bert(config, "pretraining", seed=0)
    task, optimizer = Pretraining(model), optim.AdamW(model, lr=2e-3)
    sampler = data.RandomSampler(len(learned), 16, seed=0)
    counts = np.ones(len(TOKENIZER))
    for step in range(600):
        batch = learned.batch(next(sampler))
        labels = batch["labels"]
        counts += np.bincount(labels[labels != -100], minlength=len(counts))
        optimizer.lr = 2e-3 * min(1, step / 50)
        task.loss(batch, 1 / task.count(batch))
        task.backward()
        optimizer.step(clip_norm=1.0)
        model.zero_grad()
    found = evaluate(task, [held_out])
    assert found is not None
    labels = held_out["labels"][held_out["labels"] != -100]
    by_frequency = -np.log(counts / counts.sum())[labels].mean()
    assert found["loss"] < by_frequency
    assert found["masked_accuracy"] > 2 * (labels == counts.argmax()).mean()
    assert found["next_sentence_accuracy"] > 0.75


@planted(
    "C28", "recomputed blocks draw other dropout masks", nn.Generator, "replay_from",
    lambda right: lambda self, count: right(self, count + 1),
)  # fmt: skip
def test_c28_accumulated_batches_and_recomputed_blocks_give_the_same_gradient():
    """Both need less memory at a time: the gradient is that of the whole batch."""
    config = GPTConfig(17, 9, 12, 3, 2, dropout=0.2)
    ids, targets = np.random.default_rng(0).integers(0, 17, (2, 6, 9))
    grads = []
    for recompute in (False, True):
        model = GPT(config, seed=1, recompute=recompute)
        model.loss(ids, targets)
        model.backward()
        grads.append(model.storage.grads.tobytes())
    assert grads[0] == grads[1], "the same bits"
    model = GPT(config.replace(dropout=0.0), seed=1).to(dtype="float64")
    task = LanguageModel(model)
    whole = float(task.loss({"ids": ids, "targets": targets}, 1 / ids.size))
    task.backward()
    expected = model.storage.grads.copy()
    model.zero_grad()
    parts = 0.0
    for rows in (slice(0, 1), slice(1, 3), slice(3, 6)):
        parts += float(task.loss({"ids": ids[rows], "targets": targets[rows]}, 1 / ids.size))
        task.backward()
    np.testing.assert_allclose(parts, whole, rtol=1e-12)
    np.testing.assert_allclose(model.storage.grads, expected, rtol=0, atol=1e-14)


@planted(
    "C29", "scores are not scaled by 1/sqrt(D)", attention, "forward",
    lambda right: lambda q, k, v, mask=None, scale=None, *more, **options: right(
        q, k, v, mask, 1.0, *more, **options
    ),
)  # fmt: skip
def test_c29_mixed_precision_and_tiled_attention():
    """The loss of a training in bf16 is within 1 % of that in float32. Attention never writes the
    matrix of scores, and equals the formula that does.
    """
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 2, 150, 3, 8))
    found = attention.forward(q, k, v, causal=True)[0]
    for b, head in np.ndindex(2, 3):
        scores = q[b, :, head] @ k[b, :, head].T / math.sqrt(8)
        scores = np.where(np.tri(150, dtype=bool), scores, -np.inf)
        np.testing.assert_allclose(found[b, :, head], softmax(scores) @ v[b, :, head], rtol=1e-9)
    # The next id is one of three, so that the least loss is log 3.
    ids = np.cumsum(rng.integers(0, 3, (150, 8, 17)), axis=-1) % 11
    last = {}
    for precision in ("float32", "bf16"):
        model = GPT(GPTConfig(11, 16, 24, 3, 2), seed=1, precision=precision)
        optimizer = optim.AdamW(model, lr=3e-3)
        losses = []
        for rows in ids:
            model.zero_grad()
            losses.append(float(model.loss(rows[:, :-1].copy(), rows[:, 1:].copy())))
            model.backward()
            optimizer.step()
        last[precision] = np.mean(losses[-10:])
    assert last["float32"] < 1.2
    assert abs(last["bf16"] / last["float32"] - 1) < 0.01


@planted(
    "C31", "ids that do not fit the context are cut", causal_lm, "require_ids",
    lambda right: lambda *given: None,
)  # fmt: skip
def test_c31_more_tokens_than_the_context_are_an_error_or_a_moving_window():
    shown = ContextWindow()
    refused = "GPT: 95 tokens do not fit the context of 48"
    assert shown.error == refused.replace("95", str(len(shown.ids)))
    for prompt, answer in shown.answers.items():
        window = [*shown.ids[:prompt]]
        for token in answer:
            assert token == shown.model(np.array([window]))[0, -1].argmax()
            window.append(int(token))
            if len(window) > CONTEXT:
                window = window[-CONTEXT // 2 :]
    with pytest.raises(ValueError, match="40 tokens and 9 new ones do not fit the context of 48"):
        shown.model.generate(shown.ids[:40], max_new_tokens=9)
    per_word = list(shown.per_word.values())
    assert per_word == sorted(per_word, reverse=True), "a larger vocabulary has fewer tokens"
    assert "tokens per word" in shown.text()


@planted(
    "C30", "a token sees itself only", attention, "forward",
    lambda right: lambda *given, **options: right(*given, **{**options, "window": 1}),
)  # fmt: skip
def test_c30_a_word_has_one_id_and_another_vector_in_each_sentence():
    """prompt -> ids -> embeddings -> blocks -> probabilities; "date" is a day and a fruit."""
    sentences = ["the date is the fourth of may", "the date is a sweet brown fruit"]
    tokenizer = WordPieceTokenizer.train(sentences * 3, 200)
    ids = [tokenizer.encode(sentence) for sentence in sentences]
    at = [row.tolist().index(tokenizer.encode("date", False)[0]) for row in ids]
    assert at == [2, 2]
    assert ids[0][2] == ids[1][2], "one id"
    config = BertConfig(len(tokenizer), 24, 2, 3, 48, context_size=16, dropout=0.0)
    model = Bert(config, "mlm", seed=0).to(dtype="float64").inference()
    encoder = model.encoder
    inputs = [
        encoder.tokens.weight.value[row] + encoder.positions.weight.value[: len(row)] for row in ids
    ]
    assert (inputs[0][2] == inputs[1][2]).all(), "one input vector"
    x = [norm(row + encoder.segments.weight.value[0], encoder.norm) for row in inputs]
    for block in encoder.blocks:
        x = [block_by_hand(row, block, heads=3) for row in x]
    outputs = [encoder(row[None])[0] for row in ids]
    for row, by_hand in zip(outputs, x, strict=True):
        np.testing.assert_allclose(row, by_hand, rtol=1e-9, atol=1e-12)
    assert np.abs(outputs[0][2] - outputs[1][2]).max() > 1e-3, "another output vector"
    again = encoder(ids[0][None])[0]
    assert (again == outputs[0]).all(), "the same in the same sentence"
    p = softmax(model(ids[0][None]))
    assert p.shape == (1, len(ids[0]), len(tokenizer))
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-12)
