"""Several sequences in a row: logits, loss and gradients are those of the sequences apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from byhand import GPT, Bloom, BloomConfig, GPTConfig, Llama, LlamaConfig, optim
from byhand.data import MaskedDataset, PackedDataset, SequenceDataset, pack
from byhand.errors import UserError
from byhand.tasks import LanguageModel, MaskedLM, TokenClassification
from tests.models import bert_batches

V, CONTEXT = 19, 16
SIZES: dict[str, Any] = dict(context_size=CONTEXT, embedding_dim=12, num_heads=3, num_layers=2)
MODELS = {
    **{f"GPT, {kind}": (GPT, GPTConfig, {"positions": kind}) for kind in ("learned", "sinusoidal")},
    **{f"GPT, {kind}": (GPT, GPTConfig, {"positions": kind}) for kind in ("rotary", "alibi")},
    "Llama": (Llama, LlamaConfig, {"intermediate_size": 17, "sliding_window": 5}),
    "Bloom": (Bloom, BloomConfig, {}),
}
models = pytest.mark.parametrize("name", MODELS)
LENGTHS = (5, 16, 9, 1, 7, 3, 12)


def made(name: str, dtype: str = "float64", recompute: bool = False, **more: Any) -> Any:
    model, config, options = MODELS[name]
    built = model(config(V, **SIZES, **options, **more), seed=1, recompute=recompute)
    rng = np.random.default_rng(2)
    for p in built.parameters():
        p.value += rng.standard_normal(p.shape, dtype=np.float32) * np.float32(0.1)
    return built.to(dtype=dtype)


def sequences() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, V, n) for n in LENGTHS]


def test_every_sequence_is_in_one_row_with_its_targets() -> None:
    packed = pack(sequences(), CONTEXT, pad=7)
    ids, targets, numbers = packed["ids"], packed["targets"], packed["sequences"]
    assert ids.shape == targets.shape == numbers.shape == (4, CONTEXT)  # 53 tokens
    found = []
    for row in range(len(ids)):
        assert (np.diff(numbers[row]) >= 0).all()
        for number in np.unique(numbers[row]):
            at = numbers[row] == number
            if number == numbers[row].max() and (targets[row, at] == -100).all():
                if (ids[row, at] == 7).all():
                    continue  # padding
            found.append(ids[row, at].tolist())
            assert targets[row, at].tolist() == [*found[-1][1:], -100]
    assert sorted(found) == sorted(s.tolist() for s in sequences())


@models
@pytest.mark.parametrize("recompute", [False, True])
def test_loss_and_gradients_are_those_of_the_sequences_apart(name: str, recompute: bool) -> None:
    packed = pack(sequences(), CONTEXT)
    model = made(name, recompute=recompute)
    loss = float(model.loss(packed["ids"], packed["targets"], 1.0, packed["sequences"]))
    model.backward()
    grads = model.storage.grads.copy()
    model.zero_grad()
    apart = 0.0
    for sequence in sequences():
        if len(sequence) > 1:
            apart += float(model.loss(sequence[None, :-1], sequence[None, 1:], 1.0))
            model.backward()
    assert abs(loss - apart) < 1e-10 * apart
    np.testing.assert_allclose(grads, model.storage.grads, rtol=0, atol=1e-10)


@models
def test_another_sequence_of_the_row_moves_no_bit(name: str) -> None:
    packed = pack(sequences(), CONTEXT)
    model = made(name, "float32").inference()
    before = model(packed["ids"], sequences=packed["sequences"]).copy()
    first = packed["sequences"] == 0
    changed = np.where(first, packed["ids"], (packed["ids"] + 1) % V)
    after = model(changed, sequences=packed["sequences"])
    assert np.array_equal(before[first], after[first])
    assert not np.array_equal(before[~first], after[~first])


def test_a_task_learns_from_packed_rows() -> None:
    task = LanguageModel(made("Llama", "float32"))
    optimizer = optim.AdamW(task.model, lr=1e-2, weight_decay=0.0)
    batch = pack(sequences(), CONTEXT)
    losses = []
    for _ in range(60):
        task.model.zero_grad()
        losses.append(float(task.loss(batch, 1 / task.count(batch))))
        task.backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize(
    ("given", "length", "message"),
    [
        ([], 4, "there are no sequences to pack"),
        ([[1, 2], []], 4, "sequence 1 must be a flat array of ids"),
        ([[1, 2], np.zeros(0, np.int64)], 4, "sequence 1 has 0 tokens, not 1 to 4"),
        ([[1, 2, 3, 4, 5]], 4, "sequence 0 has 5 tokens, not 1 to 4"),
        ([[[1, 2]]], 4, "sequence 0 must be a flat array of ids"),
        ([[0.5]], 4, "sequence 0 must be a flat array of ids"),
        ([[1]], 0, "length must be at least 1, not 0"),
    ],
)
def test_mistakes_are_named(given: Any, length: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pack(given, length)


def test_models_name_what_does_not_fit() -> None:
    model = made("Llama", "float32")
    ids = np.zeros((2, 6), np.int64)
    with pytest.raises(ValueError, match=r"Llama: sequences must have the shape of ids, \(2, 6\)"):
        model(ids, sequences=ids[:, :5].copy())
    with pytest.raises(ValueError, match="decreas"):
        model(ids, sequences=np.array([[1, 0, 0, 0, 0, 0]] * 2))
    with pytest.raises(ValueError, match="Llama: packed sequences cannot continue"):
        model(ids, model.new_cache(2), ids)
    linear = GPT(GPTConfig(V, **SIZES, attention="linear"))
    with pytest.raises(ValueError, match="LinearAttention: several sequences cannot be packed"):
        linear(ids, sequences=ids)


# --- BERT -----------------------------------------------------------------------------------------

BERT_LENGTHS, WIDTH = (4, 11, 7, 1, 6, 3), 11
berts = pytest.mark.parametrize("head", ["mlm", "tokens"])


def bert_rows(head: str) -> SequenceDataset:
    rng = np.random.default_rng(5)
    most = bert_batches.LABELS if head == "tokens" else bert_batches.SIZES["vocab_size"]
    rows = [rng.integers(1, 19, n) for n in BERT_LENGTHS]
    labels = [np.where(rng.random(n) < 0.4, -100, rng.integers(0, most, n)) for n in BERT_LENGTHS]
    segments = [rng.integers(0, 2, n) for n in BERT_LENGTHS]
    return SequenceDataset(rows, 0, segments, token_labels=labels)


def test_a_packed_data_set_has_every_row_once() -> None:
    rows = bert_rows("tokens")
    packed = PackedDataset(rows, WIDTH)
    batch = packed.batch(np.arange(len(packed)))
    assert len(packed) == 3  # 32 tokens
    assert batch["lengths"].sum() == sum(BERT_LENGTHS)
    assert (batch["sequences"][:, 1:] >= batch["sequences"][:, :-1]).all()
    found = []
    for row, length in enumerate(batch["lengths"]):
        numbers = batch["sequences"][row, :length]
        assert (batch["sequences"][row, length:] == numbers[-1] + 1).all()
        assert (batch["labels"][row, length:] == -100).all()
        assert (batch["ids"][row, length:] == 0).all()
        for number in np.unique(numbers):
            at = numbers == number
            names = "ids", "segments", "labels"
            found.append(tuple(tuple(batch[name][row, :length][at].tolist()) for name in names))
    wanted = []
    for i, n in enumerate(BERT_LENGTHS):
        one = rows.batch([i])
        wanted.append(tuple(tuple(one[k][0, :n].tolist()) for k in ("ids", "segments", "labels")))
    assert sorted(found) == sorted(wanted)
    again = packed.batch([2, 0])
    for name, a in again.items():
        assert np.array_equal(a, batch[name][[2, 0]]), name


@berts
@pytest.mark.parametrize("recompute", [False, True])
def test_a_packed_bert_has_the_loss_and_gradients_of_its_rows(head: str, recompute: bool) -> None:
    rows = bert_rows(head)
    model = bert_batches.make(head, recompute=recompute)
    packed = PackedDataset(rows, WIDTH)
    grads = []
    losses = []
    for data in (rows, packed):
        total = 0.0
        for i in range(len(data)):
            batch = data.batch([i])
            if (batch["labels"] != -100).any():
                total += float(model.loss(**batch, scale=1.0))
                model.backward()
        losses.append(total)
        grads.append(model.storage.grads.copy())
        model.zero_grad()
    assert abs(losses[0] - losses[1]) < 1e-10 * losses[0]
    np.testing.assert_allclose(grads[0], grads[1], rtol=0, atol=1e-10)


@berts
def test_another_row_of_a_packed_bert_moves_no_bit(head: str) -> None:
    model = bert_batches.make(head, dtype="float32").inference()
    packed = PackedDataset(bert_rows(head), WIDTH)
    batch = packed.batch(np.arange(len(packed)))
    given = {name: batch[name] for name in ("lengths", "segments", "sequences")}
    before = model(batch["ids"], **given).copy()
    first = batch["sequences"] == 0
    after = model(np.where(first, batch["ids"], (batch["ids"] + 1) % 19), **given)
    assert np.array_equal(before[first], after[first])
    there = np.arange(WIDTH) < batch["lengths"][:, None]
    assert not np.array_equal(before[~first & there], after[~first & there])


def test_masks_of_packed_rows_leave_out_padding_and_are_learned() -> None:
    rows = SequenceDataset([np.arange(3, 3 + n) for n in BERT_LENGTHS])
    data = MaskedDataset(PackedDataset(rows, WIDTH), 2, 19, (0, 1), probability=0.3)
    task = MaskedLM(bert_batches.make("mlm", dtype="float32"))
    optimizer = optim.AdamW(task.model, lr=1e-2, weight_decay=0.0)
    batch = data.batch(np.arange(6))
    padding = np.arange(WIDTH) >= batch["lengths"][:, None]
    assert (batch["labels"][padding] == -100).all()
    losses = []
    for _ in range(60):
        task.model.zero_grad()
        losses.append(float(task.loss(batch, 1 / task.count(batch))))
        task.backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 2
    found = task.metrics(batch)
    assert found["accuracy"][0] > found["accuracy"][1] / 2


def test_entities_of_packed_rows_end_with_their_row() -> None:
    """Two rows of one name each, I-X I-X: packed beside each other they are no longer name."""
    rows = SequenceDataset([[1, 5, 6, 2]] * 2, token_labels=[[-100, 1, 1, -100]] * 2)
    model = bert_batches.make("tokens", num_labels=5, labels=("O", "I-X", "a", "b", "c"))
    model.head.classifier.bias.value[1] = 1e3  # always I-X
    task = TokenClassification(model)
    apart = task.metrics(rows.batch([0, 1]))["f1"]
    packed = task.metrics(PackedDataset(rows, WIDTH).batch([0]))["f1"]
    assert apart == packed == (4.0, 4)


def test_bert_names_what_cannot_be_packed() -> None:
    ids = np.ones((2, 4), np.int64)
    for head in (None, "pretraining", "classification", "span", "embedding"):
        model = bert_batches.make(head)
        with pytest.raises(
            ValueError, match="Bert: sequences are for the heads 'mlm' and 'tokens'"
        ):
            model(ids, sequences=ids)
    model = bert_batches.make("mlm")
    with pytest.raises(ValueError, match=r"Bert: sequences must have shape \(2, 4\)"):
        model(ids, sequences=ids[:, :3].copy())
    with pytest.raises(TypeError, match="Bert: sequences must be int64"):
        model(ids, sequences=ids.astype(np.int32))
    with pytest.raises(UserError, match="a row has 4 tokens, which do not fit the width 3"):
        PackedDataset(SequenceDataset(ids), 3)
    with pytest.raises(UserError, match="only rows with labels of tokens"):
        PackedDataset(SequenceDataset(ids, labels=[0, 1]), 8)
    with pytest.raises(UserError, match="the width must be at least 1"):
        PackedDataset(SequenceDataset(ids), 0)
