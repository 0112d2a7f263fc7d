"""Sessions: rows of different lengths are what each row is alone, for every kind of model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from byhand import GPT, Bloom, BloomConfig, GPTConfig, Llama, LlamaConfig
from byhand.errors import UserError
from byhand.generation import GenerationConfig, Session, generate
from byhand.models.mlp import MLP, MLPConfig
from byhand.nn import Embedding, Linear, Module
from byhand.nn.cache import DecoderCache, KeyValueCache

V, CONTEXT = 23, 16


def gpt(**options: Any) -> GPT:
    return GPT(GPTConfig(V, CONTEXT, 12, 3, 2, **options))


def llama(**options: Any) -> Llama:
    return Llama(LlamaConfig(V, 16, 24, 2, 4, 2, CONTEXT, **options))


MODELS = {
    "learned": gpt,
    "sinusoidal": lambda: gpt(positions="sinusoidal"),
    "rotary": lambda: gpt(positions="rotary"),
    "alibi": lambda: gpt(positions="alibi"),
    "post-norm": lambda: gpt(norm="post"),
    "linear attention": lambda: gpt(attention="linear"),
    "llama": llama,
    "llama with a window": lambda: llama(sliding_window=3),
    "llama with norms of queries": lambda: llama(qk_norm=True),
    "llama with experts": lambda: llama(num_local_experts=3, num_experts_per_tok=2),
    "bloom": lambda: Bloom(BloomConfig(V, 12, 2, 3, CONTEXT)),
}
LENGTHS = (3, 1, 9, CONTEXT, CONTEXT + 4, 7)


def lively(model: Any, dtype: str = "float64", seed: int = 0) -> Any:
    """The model with weights for which the next token depends on all earlier ones."""
    rng = np.random.default_rng(seed)
    model.to(dtype=dtype)
    for p in model.parameters():
        if len(p.shape) > 1:
            p.value[...] = rng.normal(scale=0.7, size=p.shape)
    return model


def rows(lengths: Any = LENGTHS, seed: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(V, size=n) for n in lengths]


def greedy(session: Session, steps: int) -> list[np.ndarray]:
    """Extends the rows; the logits of each step."""
    seen = []
    for _ in range(steps):
        seen.append(session.logits)
        session.extend(session.logits.argmax(axis=1))
    return seen


def started(model: Any, prompts: Any, **names: Any) -> Session:
    config = GenerationConfig(**{"max_new_tokens": 40, "overflow": "window", **names})
    return Session(model, prompts, config, keep_states=True)


@pytest.mark.parametrize("kind", MODELS)
def test_a_row_in_a_batch_is_the_row_alone_with_the_cache_and_without(kind: str):
    """Prompts shorter and longer than the context, and texts of twice its length."""
    model = lively(MODELS[kind]())
    together, plain = started(model, rows()), started(model, rows(), use_cache=False)
    logits, without = greedy(together, 40), greedy(plain, 40)
    for one, other in zip(logits, without, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)
    assert len(set(np.concatenate(together.ids).tolist())) > 10, "such texts would test nothing"
    for number, prompt in enumerate(rows()):
        alone = started(model, [prompt])
        for step, one in enumerate(greedy(alone, 40)):
            np.testing.assert_allclose(one[0], logits[step][number], rtol=0, atol=1e-9)
        assert alone.ids[0].tolist() == together.ids[number].tolist() == plain.ids[number].tolist()
        _ = alone.logits, together.logits
        np.testing.assert_allclose(alone.states[0], together.states[number], rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["learned", "llama", "bloom", "linear attention"])
def test_float32_follows_the_same_rule(kind: str):
    model = lively(MODELS[kind](), "float32")
    together = greedy(started(model, rows((2, 9, 5))), 6)
    for number, prompt in enumerate(rows((2, 9, 5))):
        for step, one in enumerate(greedy(started(model, [prompt]), 6)):
            np.testing.assert_allclose(one[0], together[step][number], rtol=0, atol=1e-3)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("before", ["prefill", "logits", "extend"])
def test_rows_are_reordered_repeated_and_left_out(before: str, use_cache: bool):
    model = lively(gpt())
    full = started(model, rows(), use_cache=use_cache)
    logits = greedy(full, 20)
    some = started(model, rows(), use_cache=use_cache)
    if before != "prefill":
        greedy(some, 3)
    if before == "logits":
        _ = some.logits
    picked = [4, 4, 0, 2]
    some.select(picked)
    assert some.origins.tolist() == picked
    done = some.steps
    for step, one in enumerate(greedy(some, 20 - done), done):
        np.testing.assert_allclose(one, logits[step][picked], rtol=0, atol=1e-9)
    assert [r.tolist() for r in some.ids] == [full.ids[n].tolist() for n in picked]
    some.select(np.array([False, True, False, True]))
    assert some.origins.tolist() == [4, 2]
    assert some.prompt_lengths.tolist() == [LENGTHS[4], LENGTHS[2]]
    assert [r.tolist() for r in some.new_ids] == [
        full.ids[n][LENGTHS[n] :].tolist() for n in (4, 2)
    ]


def test_nothing_is_computed_before_it_is_read_and_a_step_costs_one_position():
    model = lively(gpt())
    widths = []
    forward = model.decoder.forward
    model.decoder.forward = lambda ids, **o: widths.append(ids.shape) or forward(ids, **o)
    session = started(model, [[1, 2, 3], [4]])
    assert widths == []
    greedy(session, 3)
    assert widths == [(2, 3), (2, 1), (2, 1)]
    _ = session.logits, session.logits, session.hidden
    assert len(widths) == 4


def test_tokens_may_be_added_before_the_earlier_ones_are_read():
    """As in drafting: they are read together."""
    model = lively(gpt())
    session = started(model, rows((3, 1, 6)))
    reference = started(model, rows((3, 1, 6)))
    logits = greedy(reference, 8)
    np.testing.assert_allclose(session.logits, logits[0], rtol=0, atol=1e-9)
    drafted = np.stack([row[:8] for row in reference.new_ids])
    for step in range(7):
        session.extend(drafted[:, step])
        if step in (2, 6):
            np.testing.assert_allclose(session.logits, logits[step + 1], rtol=0, atol=1e-9)


def test_window_error_and_truncation_at_the_context():
    model = lively(gpt())
    long = rows((CONTEXT + 5,))[0]
    with pytest.raises(
        UserError, match="prompt of 21 tokens and 4 new ones do not fit the context of 16"
    ):
        Session(model, [[1], long], GenerationConfig(max_new_tokens=4))
    Session(model, [long[:12]], GenerationConfig(max_new_tokens=4))
    truncated = generate(model, long, max_new_tokens=4, overflow="truncate")
    assert truncated.shape == (1, CONTEXT + 9)
    end = generate(model, long[-12:], max_new_tokens=4)
    assert truncated[0, -16:].tolist() == end[0].tolist()
    cut = generate(model, long[:3], max_new_tokens=100, overflow="truncate")
    assert cut.shape == (1, CONTEXT)
    half = generate(model, long, max_new_tokens=100, overflow="truncate")
    assert half[0, -16:].tolist() == generate(model, long[-8:], max_new_tokens=8)[0].tolist()
    window = generate(model, long[:3], max_new_tokens=100, overflow="window")
    assert window.shape == (1, 103)


def test_a_damaged_model_is_refused():
    model = gpt()
    model.head.weight.value[3] = np.nan
    with pytest.raises(UserError, match=r"weight\[3, 0\] = nan is not a number"):
        _ = started(model, [1]).logits
    with pytest.raises(UserError, match=r"logits are not numbers \(NaN\)"):
        _ = started(model.to(dtype="float64"), [1]).logits


@pytest.mark.parametrize("model", [None, MLP(MLPConfig(3, 2)), Linear(2, 3)], ids=repr)
def test_only_a_language_model_generates(model: Any):
    with pytest.raises(UserError, match="text is generated by a language model such as GPT, not"):
        Session(model, [1])


def test_a_cache_of_rows_of_different_lengths():
    like = np.zeros(1)
    cache = DecoderCache([KeyValueCache(3, 6, 1, 2, like)])
    (layer,) = cache.layers
    k = np.arange(3 * 4 * 2, dtype=np.float64).reshape(3, 4, 1, 2)
    layer.extend(k, -k)
    assert not cache.ragged
    cache.set_lengths(np.array([4, 1, 2]))
    assert cache.ragged
    assert cache.length == 4
    new = np.full((3, 1, 1, 2), 100.0)
    keys, values = layer.extend(new, -new)
    assert keys.shape == (3, 5, 1, 2)
    for row, length in enumerate((4, 1, 2)):
        assert (keys[row, :length] == k[row, :length]).all()
        assert (keys[row, length] == 100).all()
    assert (values == -keys).all()
    assert cache.lengths.tolist() == [5, 2, 3]
    assert layer.positions(2).tolist() == [[5, 6], [2, 3], [3, 4]]
    with pytest.raises(ValueError, match="2 positions after the first 5 exceed its capacity of 6"):
        layer.extend(np.zeros((3, 2, 1, 2)), np.zeros((3, 2, 1, 2)))
    cache.select(np.array([2, 2]))
    assert cache.lengths.tolist() == [3, 3]
    assert (layer.keys[:, 2] == 100).all()
    assert (layer.keys[0, :2] == k[2, :2]).all()
    cache.reset()
    assert cache.length == 0


def test_a_cache_of_different_lengths_takes_no_mask():
    model = lively(gpt())
    cache = model.new_cache(2)
    model(np.array([[1, 2], [3, 4]]), cache)
    cache.set_lengths(np.array([2, 1]))
    attention = model.decoder.blocks[0].attention
    x = np.zeros((2, 1, 12))
    with pytest.raises(ValueError, match="rows of different lengths takes no mask and no lengths"):
        attention(x, lengths=np.array([1, 1]), cache=cache.layers[0])


# --- Encoder-decoder models ----------------------------------------------------------------------


class StubDecoder(Module):
    """A GPT's decoder to whose states a mean of the memory is added."""

    def __init__(self) -> None:
        self.inner = GPT(GPTConfig(V, CONTEXT, 12, 3, 2)).decoder

    def forward(self, ids: Any, cache: Any = None, memory: Any = None, memory_lengths: Any = None):
        seen = np.arange(memory.shape[1]) < memory_lengths[:, None]
        mean = (memory * seen[..., None]).sum(axis=1) / memory_lengths[:, None]
        return self.inner(ids, cache=cache) + mean[:, None]


class Stub(Module):
    """An encoder-decoder model as `Session` describes it: the encoder is an embedding."""

    def __init__(self) -> None:
        self.config = type("C", (), {"vocabulary_size": V, "context_size": CONTEXT})()
        self.config.decoder_start_token_id = 2
        self.embedding = Embedding(V, 12)
        self.decoder = StubDecoder()
        self.head = Linear(12, V, False)
        self.encoded: list[tuple[int, ...]] = []
        self.build(0)

    def encode(self, ids: Any, lengths: Any) -> Any:
        self.encoded.append(ids.shape)
        return self.embedding(ids)

    def new_cache(self, batch: int = 1) -> DecoderCache:
        like = self.head.weight.value
        return DecoderCache([KeyValueCache(batch, CONTEXT, 3, 4, like) for _ in range(2)])


def test_an_encoder_decoder_model_encodes_once_and_begins_with_the_start_token():
    model = lively(Stub())
    prompts = rows((3, 7, 1))
    found = generate(model, prompts, max_new_tokens=9, pad_token_id=0)
    assert model.encoded == [(3, 7)]
    assert found.shape == (3, 10)
    assert (found[:, 0] == 2).all()
    assert len({tuple(row) for row in found}) == 3, "the memory changes the text"
    for prompt, text in zip(prompts, found, strict=True):
        alone = generate(model, prompt, max_new_tokens=9, use_cache=False)
        assert alone[0].tolist() == text.tolist()
        memory = model.embedding(np.array([prompt])).mean(axis=1)
        state = model.decoder.inner(text[None])[0] + memory
        assert model.head(state[None])[0].argmax(axis=-1)[:-1].tolist() == text[1:].tolist()
    end = int(found[1, 1])
    ends = generate(model, prompts, max_new_tokens=9, eos_token_id=end, pad_token_id=0)
    assert ends[1].tolist() == [2, end] + [0] * (ends.shape[1] - 2)
