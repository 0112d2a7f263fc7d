"""Rows E05 and E07: decoder-only models, and an encoder that classifies texts."""

from __future__ import annotations

import numpy as np

from byhand import (
    GPT,
    Bert,
    BertConfig,
    Bloom,
    BloomConfig,
    GPTConfig,
    Llama,
    LlamaConfig,
    data,
    nn,
    optim,
)
from byhand.ops import attention
from byhand.tasks import Classification
from byhand.text import WordPieceTokenizer
from byhand.training import evaluate
from tests.guide.planted import planted

SIZES = {"context_size": 9, "embedding_dim": 12, "num_heads": 3, "num_layers": 2}
COMMON = "hello you the now for a this your today please and we it call me".split()
SPAM = "win prize cash free urgent claim offer winner bonus credit".split()
HAM = "dinner mother train meeting school home sorry tomorrow movie friend".split()


def messages(n: int, seed: int) -> list[dict[str, str]]:
    """Common words, among them two that only this kind of message has more often than the other:
    each word of a kind comes in one of eight messages of the other kind too.
    """
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        spam = bool(rng.integers(2))
        own, other = (SPAM, HAM) if spam else (HAM, SPAM)
        words = [*rng.choice(COMMON, rng.integers(3, 12)), *rng.choice(own, 3)]
        if rng.random() < 0.25:
            words.append(rng.choice(other))
        rng.shuffle(words)
        made.append({"text": " ".join(words), "label": "spam" if spam else "ham"})
    return made


@planted(
    "E07", "every token has the row of token 0", nn.Embedding, "forward",
    lambda right: lambda self, ids, add=None: right(self, ids * 0, add),
)  # fmt: skip
def test_e07_a_small_bert_finds_spam():
    learned, held_out = messages(400, 0), messages(200, 1)
    tokenizer = WordPieceTokenizer.train([message["text"] for message in learned], 300)
    rows, others = (data.classified(made, tokenizer, 24) for made in (learned, held_out))
    config = BertConfig(
        len(tokenizer), 24, 1, 2, 48, max_position_embeddings=24, hidden_dropout_prob=0.1
    )
    model = Bert(config, "classification", seed=0)
    task, optimizer = Classification(model), optim.AdamW(model, lr=3e-3)
    sampler = data.LengthSampler(rows.lengths, 20, seed=0)
    for _ in range(5 * sampler.batches_per_epoch):
        batch = rows.batch(next(sampler))
        task.loss(batch, 1 / task.count(batch))
        task.backward()
        optimizer.step(clip_norm=1.0)
        model.zero_grad()
    found = evaluate(task, [others.batch(np.arange(len(others)))])
    assert found is not None
    assert found["accuracy"] >= 0.97
    assert found["f1"] >= 0.97
    assert data.labels_in(data.checked_examples(learned)) == ["ham", "spam"]


@planted(
    "E05", "a token sees the ones after it", attention, "forward",
    lambda right: lambda q, k, v, mask=None, scale=None, causal=False, *more, **options: right(
        q, k, v, mask, scale, False, *more, **options
    ),
)  # fmt: skip
def test_e05_decoder_only_models_never_see_a_later_token():
    """The probability of a text is the product of those of its tokens, each given the earlier
    ones; so no logit may depend on what comes later.
    """
    models = [
        GPT(GPTConfig(17, **SIZES), seed=1),
        Llama(LlamaConfig(17, **SIZES, intermediate_size=20), seed=1),
        Bloom(BloomConfig(17, **SIZES), seed=1),
    ]
    ids = np.random.default_rng(0).integers(0, 17, (3, 9))
    changed = ids.copy()
    changed[:, 5:] = (ids[:, 5:] + 1) % 17
    for model in models:
        before, after = model.inference()(ids), model(changed)
        assert np.array_equal(before[:, :5], after[:, :5])
        assert not np.array_equal(before[:, 5], after[:, 5])
