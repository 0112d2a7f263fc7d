"""Several sequences in a row: logits, loss and gradients are those of the sequences apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from byhand import GPT, Bloom, BloomConfig, GPTConfig, Llama, LlamaConfig, optim
from byhand.data import pack
from byhand.errors import UserError
from byhand.tasks import LanguageModel

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
