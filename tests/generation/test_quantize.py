"""Packed weights of a model: their formats, when they are packed again, copies and errors."""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import pytest

from byhand import nn, optim
from byhand.errors import UserError
from byhand.generation import generate
from byhand.nn.cache import KeyValueCache
from byhand.ops.packed_linear import pack_weights, unpack
from tests.generation.test_same_bits import MODELS, VOCABULARY, lively

IDS = np.random.default_rng(0).integers(VOCABULARY, size=(2, 40))


@pytest.mark.parametrize("name", MODELS)
def test_a_model_computes_with_the_weights_of_its_format(name: str):
    """As a model whose weights were rounded to the format; int8 and int4 round activations too."""
    for format, tolerance in (("float32", 1e-4), ("bf16", 1e-4), ("int8", 0.1), ("int4", 0.1)):
        model, rounded = lively(name, format), lively(name)
        for _, module in rounded.named_modules():
            if type(module) is nn.Linear:
                tied = module.weight is rounded.decoder.tokens.weight
                assert (
                    tied
                    or format == "float32"
                    or not np.array_equal(
                        unpack(pack_weights(module.weight.value, format)), module.weight.value
                    )
                )
                if not tied:
                    module.weight.value = unpack(pack_weights(module.weight.value, format))
        tied = rounded.head.weight is rounded.decoder.tokens.weight
        with model.in_decoding():
            found = model.decoder(IDS) if tied else model(IDS)
            loss = model.loss(IDS, IDS)
        with rounded.in_inference():
            expected = rounded.decoder(IDS) if tied else rounded(IDS)
            expected_loss = rounded.loss(IDS, IDS)
        error = np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2))
        assert error < tolerance * (10 if "experts" in name else 1)
        assert abs(loss - expected_loss) < 0.5 * expected_loss


def test_formats_differ_and_none_drops_them():
    model = lively("llama")
    assert model.decoding_bytes == 0
    whole = model.quantize("float32").decoding_bytes
    sizes = [model.quantize(format).decoding_bytes for format in ("bf16", "int8", "int4")]
    assert whole > sizes[0] > sizes[1] > sizes[2]
    with model.in_decoding():
        four = model(IDS)
    with model.quantize(None).in_decoding():
        assert not np.array_equal(model(IDS), four)
    assert model.decoding_bytes == 0


def test_outside_of_decoding_the_weights_are_the_model_s():
    model = lively("gpt")
    with model.in_inference():
        before = model(IDS)
    with model.quantize("int4").in_inference():
        np.testing.assert_array_equal(model(IDS), before)


def test_they_are_packed_again_after_every_change():
    model = lively("gpt", "int8")

    def logits() -> np.ndarray:
        with model.in_decoding():
            return model(IDS)

    first = logits()
    np.testing.assert_array_equal(logits(), first)
    optimizer = optim.SGD(model, lr=0.1)
    model.loss(IDS, IDS)
    model.backward()
    optimizer.step()
    second = logits()
    assert not np.array_equal(first, second)
    model.load_state_dict(lively("gpt").state_dict())
    np.testing.assert_array_equal(logits(), first)
    weight = model.decoder.blocks[0].attention.qkv.weight
    weight.value[...] = 0
    model.storage.refresh()
    assert not np.array_equal(logits(), first)


def test_copies_have_packed_weights_of_their_own():
    model = lively("llama", "int8")
    with model.in_decoding():
        expected = model(IDS)
    for made in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with made.in_decoding():
            np.testing.assert_array_equal(made(IDS), expected)
        made.head.weight.value = 2 * made.head.weight.value
        with made.in_decoding():
            assert not np.array_equal(made(IDS), expected)
    with model.in_decoding():
        np.testing.assert_array_equal(model(IDS), expected)


def test_another_thread_does_not_see_them():
    model = lively("gpt", "int4")
    with model.in_inference():
        expected = model(IDS)
    found = []

    def infer() -> None:
        with model.in_inference():
            found.append(model(IDS))

    with model.in_decoding():
        thread = threading.Thread(target=infer)
        thread.start()
        thread.join()
        assert not np.array_equal(model(IDS), expected)
    np.testing.assert_array_equal(found[0], expected)


def test_a_layer_in_place_of_a_linear_one_is_called():
    class Doubled(nn.Linear):
        def forward(self, x, add=None, again=None):
            return 2 * super().forward(x, add, again)

    model = lively("llama")
    plain = generate(model, IDS[0], max_new_tokens=20)
    layer = model.decoder.blocks[0].ffn.up
    made = Doubled(48, 100, False)
    made.weight = layer.weight
    model.decoder.blocks[0].ffn.up = made
    model.build()
    with model.in_decoding():
        whole = model(IDS)
    with model.in_inference():
        np.testing.assert_allclose(whole, model(IDS), rtol=1e-3, atol=1e-2)
    assert generate(model, IDS[0], max_new_tokens=20).tolist() != plain.tolist()


def test_errors():
    model = lively("gpt")
    with pytest.raises(ValueError, match="int8"):
        model.quantize("int9")
    model.decoder.blocks[1].ffn.up.weight.value[3, 4] = np.nan
    with pytest.raises(UserError, match=r"decoder.blocks.1.ffn.up.weight\[3, 4\]"):
        model.quantize("int8")
    with pytest.raises(UserError, match=r"decoder.blocks.1.ffn.up.weight\[3, 4\]"):
        generate(model, [1, 2], max_new_tokens=2)


def test_a_cache_grows_with_its_rows():
    rng = np.random.default_rng(0)
    like = np.zeros(1, np.float32)
    cache = KeyValueCache(2, 1000, 3, 4, like)
    keys, values = rng.normal(size=(2, 2, 700, 3, 4)).astype(np.float32)
    assert cache.keys.shape[1] < 100
    for start, stop in ((0, 1), (1, 60), (60, 64), (64, 65), (65, 400), (400, 401), (401, 700)):
        found = cache.extend(keys[:, start:stop], values[:, start:stop])
        np.testing.assert_array_equal(found[0], keys[:, :stop])
        np.testing.assert_array_equal(found[1], values[:, :stop])
    assert 700 <= cache.keys.shape[1] <= 1000
    cache.lengths = np.array([5, 700])
    more = rng.normal(size=(2, 30, 3, 4)).astype(np.float32)
    found, _ = cache.extend(more, more)
    np.testing.assert_array_equal(found[0, 5:35], more[0])
    np.testing.assert_array_equal(found[1, 700:730], more[1])
    cache.select(np.array([1, 1, 0]))
    assert cache.lengths.tolist() == [730, 730, 35]
    np.testing.assert_array_equal(cache.keys[1, :700], keys[1])
    np.testing.assert_array_equal(cache.keys[2, :5], keys[0, :5])
    with pytest.raises(ValueError, match="capacity of 1000"):
        cache.extend(*rng.normal(size=(2, 3, 271, 3, 4)).astype(np.float32))
