"""Bloom: transformers' BloomForCausalLM as oracle, gradients, causality, decoding, recomputing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from byhand import Bloom, BloomConfig, _host, gradcheck, optim
from byhand.generation import generate
from byhand.models.bloom import HF, PRESETS
from byhand.models.weight_names import from_hugging_face, to_hugging_face
from tests.hugging_face import in_float64, relative_error

# Every dimension differs, and the number of heads is no power of two.
SIZES: dict[str, Any] = dict(vocab_size=23, hidden_size=18, n_layer=2, n_head=3, seq_length=19)
tied = pytest.mark.parametrize("tied", [True, False])


def made(seed: int = 0, dtype: str = "float64", **more: Any) -> Bloom:
    model = Bloom(BloomConfig(**{**SIZES, **more}), seed=seed)
    rng = np.random.default_rng(seed + 100)
    for p in model.parameters():
        p.value += rng.standard_normal(p.shape, dtype=np.float32) * np.float32(0.2)
    return model.to(dtype=dtype)


def batch(seed: int) -> tuple[np.ndarray, np.ndarray]:
    ids = np.random.default_rng(seed).integers(0, SIZES["vocab_size"], (2, 4, 13))
    ids[1, 0, :4] = -100
    return ids[0], ids[1]


@tied
@pytest.mark.parametrize("seed", range(3))
def test_logits_loss_and_gradients_are_those_of_transformers(tied: bool, seed: int) -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    model = made(seed, tie_word_embeddings=tied)
    ids, targets = batch(seed)
    with in_float64():
        sizes = {name: SIZES[name] for name in ("vocab_size", "hidden_size", "n_layer", "n_head")}
        config = transformers.BloomConfig(
            **sizes,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            tie_word_embeddings=tied,
        )
        twin = transformers.BloomForCausalLM(config).eval()
        weights = to_hugging_face(HF(model.config), model.state_dict())
        theirs = dict(twin.named_parameters())
        assert weights.keys() == theirs.keys()
        with torch.no_grad():
            for name, p in theirs.items():
                p.copy_(torch.from_numpy(weights[name]))
        logits = twin(torch.from_numpy(ids)).logits
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), torch.from_numpy(targets).flatten()
        )
        loss.backward()
    with model.no_save():
        assert relative_error(model(ids), logits.detach().numpy()) < 1e-9
    assert abs(float(model.loss(ids, targets)) - loss.item()) < 1e-9
    model.backward()
    ours = {name: p.grad for name, p in model.named_parameters()}
    for name, grad in to_hugging_face(HF(model.config), ours).items():
        assert relative_error(grad, theirs[name].grad.numpy()) < 1e-9, name


def test_the_names_of_weights_map_both_ways() -> None:
    model = made()
    state = model.state_dict()
    back = from_hugging_face(HF(model.config), to_hugging_face(HF(model.config), state))
    assert back.keys() == state.keys()
    for name, array in back.items():
        np.testing.assert_array_equal(array, state[name])


@tied
def test_gradients_match_finite_differences(tied: bool) -> None:
    for seed in range(20):
        model = made(seed, tie_word_embeddings=tied, n_layer=1)
        gradcheck(model, *batch(seed))


def test_gradients_with_dropout_match_finite_differences() -> None:
    gradcheck(made(hidden_dropout=0.3, attention_dropout=0.2), *batch(1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_later_tokens_and_other_rows_move_no_bit(dtype: str) -> None:
    model = made(dtype=dtype).inference()
    ids, _ = batch(2)
    before = model(ids).copy()
    ids[:2, 6] = (ids[:2, 6] + 1) % SIZES["vocab_size"]
    after = model(ids)
    assert np.array_equal(before[:, :6], after[:, :6])
    assert np.array_equal(before[2:], after[2:])
    assert not np.array_equal(before[:2, 6], after[:2, 6])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_decoding_with_a_cache_gives_the_same_logits(dtype: str) -> None:
    model = made(dtype=dtype).inference()
    ids, _ = batch(4)
    whole = model(ids)
    cache = model.new_cache(len(ids))
    first = np.ascontiguousarray(ids[:, :4])
    parts = [model(first, cache=cache)]
    parts += [
        model(np.ascontiguousarray(ids[:, t : t + 1]), cache=cache) for t in range(4, ids.shape[1])
    ]
    tolerance = 1e-12 if dtype == "float64" else 2e-5
    assert relative_error(np.concatenate(parts, axis=1), whole) < tolerance


def test_generation_stays_within_the_vocabulary() -> None:
    ids = generate(made(dtype="float32").inference(), [1, 2, 3], max_new_tokens=8)
    assert np.ravel(ids).max() < SIZES["vocab_size"]


def test_recomputed_blocks_give_the_same_bits() -> None:
    ids, targets = batch(5)
    grads = []
    for recompute in (False, True):
        model = Bloom(BloomConfig(**SIZES, hidden_dropout=0.2), recompute=recompute)
        model.loss(ids, targets)
        model.backward()
        grads.append(model.storage.grads.tobytes())
    assert grads[0] == grads[1]


@pytest.mark.parametrize("recompute", [False, True])
def test_the_estimate_of_the_activations_is_nearly_what_is_kept(recompute: bool) -> None:
    config = BloomConfig(7, 128, 6, 4, 64)
    model = Bloom(config, recompute=recompute)
    ids = np.zeros((8, 64), np.int64)
    model.loss(ids, ids)
    model.backward()
    before = _host.pool_stats()["in_use"]
    loss = model.loss(ids, ids)
    allocated = _host.pool_stats()["in_use"] - before
    model.backward()
    estimate = 4 * config.saved_activations(8 * 64, recompute)
    if recompute:  # the forward pass keeps the inputs; one block at a time comes in backward
        estimate -= 4 * 10 * 8 * 64 * 128
    assert 0.9 * allocated <= estimate <= allocated
    del loss


def test_one_batch_is_overfit() -> None:
    model = Bloom(BloomConfig(**SIZES), seed=3)
    optimizer = optim.AdamW(model, lr=3e-3, weight_decay=0.0)
    ids, targets = batch(6)
    losses = []
    for _ in range(200):
        model.zero_grad()
        losses.append(float(model.loss(ids, targets)))
        model.backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 4


@pytest.mark.parametrize(("name", "millions"), [("tiny", 0.8), ("small", 10.7)])
def test_presets_have_the_parameters_that_they_say(name: str, millions: float) -> None:
    model = Bloom(BloomConfig(65, **PRESETS[name].model), draw=False)
    assert round(sum(p.size for p in model.parameters()) / 1e6, 1) == millions


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="hidden_size must be a multiple of n_head, got 18 and 4"):
        BloomConfig(**{**SIZES, "n_head": 4})
    with pytest.raises(TypeError, match="n_heads"):
        BloomConfig(**SIZES, n_heads=3)
    with pytest.raises(ValueError, match="Bloom: 20 tokens do not fit the context of 19"):
        made()(np.zeros((1, 20), np.int64))
