"""Llama: gradients, causality, decoding, recomputing, precision, training and its configuration."""

from __future__ import annotations

import copy
import json
import pickle
import re
from typing import Any

import numpy as np
import pytest

from byhand import Llama, LlamaConfig, backend, gradcheck, nn, optim
from byhand.generation import generate
from byhand.models.llama import HF, PRESETS
from byhand.nn.experts import balance
from tests.models.test_llama_transformers import (
    NEOX,
    RELATIVES,
    SIZES,
    batch,
    made,
    relative_error,
    relatives,
)

V, CONTEXT = SIZES["vocab_size"], SIZES["max_position_embeddings"]
EVERY_KIND = pytest.mark.parametrize(
    "relative",
    ["Llama", "Llama, tied", "Qwen3", "Mistral", "Mixtral", "GPT-NeoX", "GPT-NeoX, sequential"],
)


@relatives
def test_gradients_match_finite_differences(relative: str) -> None:
    if "ReLU" not in relative:  # which has kinks
        # In this batch no choice of experts is so near to a tie that a small step changes it.
        gradcheck(made(relative, num_hidden_layers=2), *batch(1))


def test_gradients_of_twenty_seeds_match_finite_differences() -> None:
    for seed in range(20):
        gradcheck(made("Llama", seed, num_hidden_layers=1), *batch(seed))


@EVERY_KIND
def test_gradients_with_dropout_match_finite_differences(relative: str) -> None:
    gradcheck(made(relative, dropout=0.3, attention_dropout=0.2), *batch(16))


@EVERY_KIND
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_later_token_never_changes_an_earlier_logit(relative: str, dtype: str) -> None:
    model = made(relative).to(dtype=dtype).inference()
    ids, _ = batch(2)
    before = model(ids).copy()
    ids[:, 6] = (ids[:, 6] + 1) % V
    after = model(ids)
    assert np.array_equal(before[:, :6], after[:, :6])
    assert not np.array_equal(before[:, 6:], after[:, 6:])


@EVERY_KIND
def test_rows_of_a_batch_do_not_influence_each_other(relative: str) -> None:
    model = made(relative).to(dtype="float32").inference()
    ids, _ = batch(3)
    before = model(ids).copy()
    ids[1] = (ids[1] + 1) % V
    after = model(ids)
    assert np.array_equal(before[[0, 2]], after[[0, 2]])
    assert not np.array_equal(before[1], after[1])


def test_the_window_bounds_what_a_token_sees() -> None:
    """Three layers of a window of 5 reach 12 tokens back."""
    model = made("Mistral").inference()
    ids = np.random.default_rng(0).integers(0, V, (1, 19))
    before = model(ids).copy()
    ids[0, 0] = (ids[0, 0] + 1) % V
    changed = (before != model(ids)).any(axis=(0, 2))
    np.testing.assert_array_equal(changed, np.arange(19) <= 12)


@relatives
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_decoding_with_a_cache_gives_the_same_logits(relative: str, dtype: str) -> None:
    model = made(relative).to(dtype=dtype).inference()
    ids, _ = batch(4)
    whole = model(ids)
    cache = model.new_cache(3)
    first = np.ascontiguousarray(ids[:, :4])
    parts = [model(first, cache=cache)]
    parts += [
        model(np.ascontiguousarray(ids[:, t : t + 1]), cache=cache) for t in range(4, ids.shape[1])
    ]
    assert cache.length == ids.shape[1]
    tolerance = 1e-12 if dtype == "float64" else 2e-5
    assert relative_error(np.concatenate(parts, axis=1), whole) < tolerance
    cache.reset()
    assert np.array_equal(model(first, cache=cache), parts[0])


@EVERY_KIND
def test_generation_is_the_choice_among_the_logits(relative: str) -> None:
    model = made(relative).to(dtype="float32").inference()
    made_up = generate(model, [1, 2, 3], max_new_tokens=8)
    ids = [1, 2, 3]
    for _ in range(8):
        ids.append(int(model(np.array([ids]))[0, -1].argmax()))
    assert list(np.ravel(made_up))[-8:] == ids[-8:]


@EVERY_KIND
def test_gradients_add_up_over_micro_batches(relative: str) -> None:
    model = made(relative, router_aux_loss_coef=0.0)  # that loss is not one of single tokens
    ids, targets = batch(5)
    counted = int((targets != -100).sum())
    model.loss(ids, targets)
    model.backward()
    whole = model.storage.grads.copy()
    model.zero_grad()
    for part in (slice(0, 1), slice(1, 3)):
        model.loss(ids[part], targets[part], 1 / counted)
        model.backward()
    assert relative_error(model.storage.grads, whole) < 1e-12


@EVERY_KIND
def test_recomputed_blocks_give_the_same_bits_and_save_less(relative: str) -> None:
    sizes = {**SIZES, **RELATIVES[relative][1], "dropout": 0.2, "num_hidden_layers": 4}
    ids, targets = batch(6)
    grads, kept = [], []
    for recompute in (False, True):
        model = Llama(LlamaConfig(**sizes), recompute=recompute)
        for _ in range(2):
            model.loss(ids, targets)
            modules = {id(m): m for _, m in model.named_modules()}.values()
            kept.append(sum(len(m.__dict__.get("_saved", ())) for m in modules))
            model.backward()
        grads.append(model.storage.grads.tobytes())
        model.zero_grad()
    assert grads[0] == grads[1]
    assert kept[2] < kept[0] / 3


@EVERY_KIND
def test_float32_and_bf16_are_close_to_float64(relative: str, native: str) -> None:
    """bf16 is used too: it differs by about 2^-9, not by float32's rounding."""
    truth, fast = made(relative), made(relative).to(dtype="float32")
    ids, targets = batch(7)
    exact = float(truth.loss(ids, targets))
    truth.backward()
    for precision, least, most in (("float32", 0, 1e-5), ("bf16", 1e-4, 0.1)):
        fast.precision = precision
        fast.zero_grad()
        with backend.use_cpu(native):
            loss = float(fast.loss(ids, targets))
            fast.backward()
        error = relative_error(fast.storage.grads, truth.storage.grads)
        assert least <= error < most, precision
        assert abs(loss - exact) < most * exact


@EVERY_KIND
def test_the_same_bits_for_any_number_of_threads(relative: str, threads: None) -> None:
    results = set()
    for count in (1, 2, 7):
        backend.set_num_threads(count)
        model = made(relative).to(dtype="float32")
        model.loss(*batch(8))
        model.backward()
        results.add(model.storage.grads.tobytes())
    assert len(results) == 1


@pytest.fixture
def threads():
    before = backend.get_num_threads()
    yield
    backend.set_num_threads(before)


@EVERY_KIND
def test_a_batch_is_learned(relative: str) -> None:
    sizes = {**SIZES, **RELATIVES[relative][1], "num_hidden_layers": 2}
    model = Llama(LlamaConfig(**{**sizes, "router_aux_loss_coef": 1e-3}))
    optimizer = optim.AdamW(model, lr=5e-3, weight_decay=0.0)
    ids, targets = batch(9)
    losses = []
    for _ in range(200):
        model.zero_grad()
        losses.append(float(model.loss(ids, targets)))
        model.backward()
        optimizer.step()
    assert abs(losses[0] - np.log(V)) < 0.1
    assert losses[-1] < 0.3


@relatives
def test_a_model_survives_copy_pickle_and_its_description(relative: str) -> None:
    model = made(relative).to(dtype="float32").inference()
    ids, _ = batch(10)
    expected = model(ids).tobytes()
    assert copy.deepcopy(model)(ids).tobytes() == expected
    assert pickle.loads(pickle.dumps(model))(ids).tobytes() == expected
    described = json.loads(json.dumps(model.config.to_dict()))
    other = Llama(LlamaConfig.from_dict(described), seed=1)
    other.load_state_dict(model.state_dict())
    assert other.inference()(ids).tobytes() == expected


def test_frozen_weights_get_no_gradient_and_change_no_other() -> None:
    model, other = made("Qwen3"), made("Qwen3")
    other.freeze(lambda name: "attention" in name)
    for one in (model, other):
        one.loss(*batch(11))
        one.backward()
    whole = dict(model.named_parameters())
    for name, p in other.named_parameters():
        if "attention" in name:
            assert p.grad is None
        else:
            np.testing.assert_array_equal(p.grad, whole[name].grad)


def test_an_adapter_in_the_place_of_a_linear_layer_is_called() -> None:
    class Adapter(nn.Module):
        def __init__(self, inner: nn.Linear):
            self.inner, self.calls = inner, 0

        def forward(self, x, add=None, again=None):
            self.calls += 1
            return self.inner(x, add, again)

        def backward(self, dy):
            return self.inner.backward(dy)

    model, plain = made("Llama"), made("Llama")
    block = model.decoder.blocks[0]
    for part, name in ((block.ffn, "gate"), (block.attention, "qkv"), (block.attention, "project")):
        setattr(part, name, Adapter(getattr(part, name)))
    ids, targets = batch(12)
    assert abs(float(model.loss(ids, targets)) - float(plain.loss(ids, targets))) < 1e-12
    for one in (model, plain):
        one.backward()
    gradients = [p.grad for p in plain.parameters()]
    for p, expected in zip(model.parameters(), gradients, strict=True):
        assert relative_error(p.grad, expected) < 1e-12
    replaced = (block.ffn.gate, block.attention.qkv, block.attention.project)
    assert [part.calls for part in replaced] == [1, 1, 1]


def test_the_load_balance_loss_is_part_of_the_loss_in_training_only() -> None:
    ids, targets = batch(13)
    plain, model = made("Mixtral", router_aux_loss_coef=0.0), made("Mixtral")
    alone = float(plain.loss(ids, targets))
    value, _ = balance([block.ffn.routing for block in plain.decoder.blocks])
    assert abs(float(model.loss(ids, targets)) - alone - 0.3 * value) < 1e-12
    scaled = float(model.loss(ids, targets, 0.125))
    counted = int((targets != -100).sum())
    assert abs(scaled - 0.125 * counted * (alone + 0.3 * value)) < 1e-11
    assert float(model.eval().loss(ids, targets)) == alone
    model.discard_saved()
    plain.discard_saved()


def test_two_losses_with_experts_are_undone_in_their_order() -> None:
    """Each backward pass adds the load-balance gradient of its own forward pass."""
    model = made("Mixtral")
    apart = []
    for seed in (14, 15):
        model.loss(*batch(seed))
        model.backward()
        apart.append(model.storage.grads.copy())
        model.zero_grad()
    for seed in (14, 15):
        model.loss(*batch(seed))
    model.backward()
    model.backward()
    assert relative_error(model.storage.grads, apart[0] + apart[1]) < 1e-12
    logits = model(batch(14)[0])
    model.backward(np.ones_like(logits))
    assert all(block.ffn.balance_gradient is None for block in model.decoder.blocks)


# --- The configuration ---------------------------------------------------------------------------


def test_byhands_names_of_the_sizes() -> None:
    ours = LlamaConfig(
        vocabulary_size=23,
        embedding_dim=24,
        intermediate_size=37,
        num_layers=3,
        num_heads=6,
        num_kv_heads=2,
        context_size=19,
        rms_norm_eps=1e-5,
    )
    assert ours == LlamaConfig(**SIZES)
    assert (ours.vocabulary_size, ours.context_size, ours.embedding_dim) == (23, 19, 24)
    assert (ours.num_layers, ours.num_heads, ours.kv_heads, ours.head_width) == (3, 6, 2, 4)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hidden_size": 25}, "hidden_size must be a multiple of num_attention_heads, or head_dim "
         "be given, got 25 and 6"),
        ({"num_key_value_heads": 4}, "num_attention_heads must be a multiple of "
         "num_key_value_heads, got 6 and 4"),
        ({"head_dim": 5}, "head_dim must be even, got 5"),
        ({"partial_rotary_factor": 0.8}, "head_dim * partial_rotary_factor must be even, got 3"),
        ({"partial_rotary_factor": 1.5}, "partial_rotary_factor must be greater than 0 and at most "
         "1, got 1.5"),
        ({"rope_theta": 0.5}, "rope_theta must be a number greater than 1, got 0.5"),
        ({"rope_scaling": {"rope_type": "ntk"}}, "the rope_type of scaling must be one of"),
        ({"rope_scaling": {"rope_type": "linear"}}, "'linear' scaling needs the field 'factor'"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0.5}}, "rope_scaling['factor'] must be "
         "a number of at least 1, got 0.5"),
        ({"rope_scaling": "linear"}, "rope_scaling must be a dict with strings for keys, got"),
        ({"rope_scaling": {"factor": {1}}}, "rope_scaling must be a dict of JSON data, got"),
        ({"hidden_act": "silo"}, "did you mean silu?"),
        ({"norm": "batch"}, "norm must be rms or layer, got 'batch'"),
        ({"num_local_experts": 4, "gated": False}, "gated must be True with num_local_experts"),
        ({"num_local_experts": 1}, "num_experts_per_tok must be at most num_local_experts = 1"),
        ({"sliding_window": 0}, "sliding_window must be at least 1, got 0"),
        ({"intermediate": 3}, "'intermediate' is unknown (did you mean intermediate_size?)"),
        ({"num_layers": 3}, "num_hidden_layers is given twice, as num_hidden_layers and as "
         "num_layers"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^LlamaConfig: ") as caught:
        LlamaConfig(**{**SIZES, **changed})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m(np.zeros((1, 20), np.int64)), "Llama: 20 tokens do not fit the context of 19"),
        (lambda m: m(np.full((1, 2), V)), f"{V} is outside"),
        (lambda m: m(np.zeros(3, np.int64)), "Llama: ids must have shape (B, T), got (3,)"),
    ],
)
def test_wrong_ids_are_named(call: Any, message: str) -> None:
    with pytest.raises((ValueError, IndexError), match=re.escape(message)):
        call(made("Llama"))


@pytest.mark.parametrize(
    ("preset", "vocabulary", "parameters"),
    [
        ("tiny", 65, 992_512),
        ("small", 65, 9_467_136),
        # As published.
        ("smollm2-135m", 49_152, 134_515_008),
        ("llama-3.2-1b", 128_256, 1_235_814_400),
    ],
)
def test_presets_have_their_sizes(preset: str, vocabulary: int, parameters: int) -> None:
    c = LlamaConfig(vocabulary_size=vocabulary, **PRESETS[preset].model)
    layers, C, F = c.num_hidden_layers, c.hidden_size, c.intermediate_size
    rows = 2 * (c.num_attention_heads + c.kv_heads) * c.head_width
    formula = layers * (rows * C + 3 * C * F + 2 * C) + (vocabulary + 1) * C
    assert formula == parameters
    if preset in ("tiny", "small"):
        assert Llama(c, draw=False).num_parameters() == parameters


@relatives
def test_the_estimate_of_parameters_leaves_out_vectors_only(relative: str) -> None:
    model = made(relative)
    matrices = sum(p.size for p in model.parameters() if len(p.shape) > 1)
    assert model.config.least_parameters() == matrices


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("relative", ["Llama", "Qwen3", "GPT-NeoX", "Mixtral"])
def test_activations_are_not_estimated_too_high(relative: str, recompute: bool) -> None:
    """The estimate is what a forward pass must keep; it keeps small things beside it."""
    model = Llama(
        LlamaConfig(**{**SIZES, **RELATIVES[relative][1], "num_hidden_layers": 4}),
        recompute=recompute,
    )
    ids = np.random.default_rng(0).integers(0, V, (8, CONTEXT))
    model(ids)
    kept: dict[int, int] = {}

    def count(value: Any) -> None:
        if isinstance(value, np.ndarray):
            base = value
            while isinstance(base.base, np.ndarray):
                base = base.base
            kept[id(base)] = base.nbytes
        elif isinstance(value, (tuple, list)):
            for one in value:
                count(one)

    parameters = {id(model.storage.values)}
    for _, module in model.named_modules():
        count(list(module.__dict__.get("_saved", ())))
    held = sum(size for array, size in kept.items() if array not in parameters) / 4
    estimate = model.config.saved_activations(ids.size, recompute)
    if recompute:
        estimate = model.config.num_hidden_layers * ids.size * model.config.hidden_size
    assert estimate <= held
    model.discard_saved()


def test_what_gpt_neox_lacks_is_left_out_of_its_names() -> None:
    config = LlamaConfig(**{**SIZES, **NEOX, "mlp_bias": False})
    names = [weight.name for weight in HF(config)]
    assert sorted(names) == sorted(n for n, _ in Llama(config).named_parameters())
