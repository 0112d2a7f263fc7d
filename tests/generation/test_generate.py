"""Generation: the same ids with and without the cache, alone and in a batch, within the context
and beyond it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from byhand import GPT, GPTConfig
from byhand.errors import UserError
from byhand.generation import GenerationConfig, generate, stream_ids
from byhand.generation.processors import apply, build
from byhand.generation.sampling import draw, row_keys, uniforms
from byhand.generation.session import Session

V = 23


def lively_model(context: int, dtype: str, seed: int = 0, dropout: float = 0.0) -> GPT:
    """A model whose next token depends strongly on all tokens before it."""
    config = GPTConfig(
        vocabulary_size=V,
        context_size=context,
        embedding_dim=12,
        num_heads=3,
        num_layers=2,
        dropout=dropout,
    )
    model = GPT(config, seed=seed).to(dtype=dtype)
    rng = np.random.default_rng(seed)
    for parameter in model.parameters():
        if len(parameter.shape) > 1:
            parameter.value[...] = rng.normal(scale=0.7, size=parameter.shape)
    return model


def without_cache(model: GPT, prompt: list[int], config: GenerationConfig) -> list[int]:
    """The rule without a cache: when the window is full, its older half is dropped."""
    context = model.config.context_size
    processors = build(config, Session(model, prompt, config))
    keys = row_keys(config.seed, [np.array(prompt)])
    window, written = prompt[-context:], list(prompt)
    assert config.max_new_tokens is not None
    for step in range(config.max_new_tokens):
        if len(window) > context:
            del window[: len(window) - (context - context // 2)]
        with model.in_inference():
            logits = model(np.array([window]))[:, -1]
        scores = apply(processors, [np.array(written)], logits)
        sampled = draw(scores, uniforms(keys, step))
        token = int((sampled if config.samples else scores.argmax(axis=1))[0])
        window.append(token)
        written.append(token)
    return written


RULES: list[dict[str, Any]] = [
    {},
    {"do_sample": True},
    {"do_sample": True, "temperature": 0.8, "top_k": 5, "repetition_penalty": 1.1},
]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("context", [1, 2, 7, 16])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_cached_equals_uncached_equals_the_plain_rule(
    dtype: str, context: int, rule: dict[str, Any]
):
    model = lively_model(context, dtype)
    rng = np.random.default_rng(3)
    config = GenerationConfig(max_new_tokens=40, overflow="window", seed=7, **rule)
    for length in (1, context, 3 * context + 1):
        prompt = rng.integers(V, size=length).tolist()
        expected = without_cache(model, prompt, config)
        for use_cache in (True, False):
            ids = generate(model, prompt, config, use_cache=use_cache)
            assert ids.dtype == np.int64
            assert ids.tolist() == [expected]
    if context > 2 and rule == RULES[1]:
        assert len(set(expected)) > 8, "a model that repeats one token tests nothing"


@pytest.mark.parametrize("rule", RULES[::2], ids=str)
def test_two_hundred_tokens_for_twenty_prompts_together_and_alone(rule: dict[str, Any]):
    model = lively_model(32, "float64", seed=1)
    rng = np.random.default_rng(4)
    prompts = [rng.integers(V, size=1 + 2 * n) for n in range(20)]
    names = {"max_new_tokens": 200, "overflow": "window", "seed": 9, **rule}
    together = generate(model, prompts, pad_token_id=0, **names)
    assert together.shape == (20, 39 + 200)
    plain = generate(model, prompts, pad_token_id=0, use_cache=False, **names)
    assert plain.tolist() == together.tolist()
    for number in (0, 7, 19):
        left = 39 - len(prompts[number])
        assert (together[number, :left] == 0).all()
        alone = generate(model, prompts[number], **names)
        assert alone[0].tolist() == together[number, left:].tolist()


def test_the_texts_of_a_prompt_are_those_of_equal_prompts():
    model = lively_model(16, "float64")
    names = {"max_new_tokens": 12, "do_sample": True, "seed": 3}
    three = generate(model, [1, 2], num_return_sequences=3, **names)
    assert three.shape == (3, 14)
    assert len({tuple(row) for row in three}) == 3
    assert generate(model, [[1, 2]] * 3, **names).tolist() == three.tolist()
    both = generate(model, [[5, 6], [1, 2]], num_return_sequences=3, **names)
    assert both[3:].tolist() == three.tolist()
    for number, text in enumerate(three):
        ids = list(stream_ids(model, [1, 2], number=number, **names))
        assert ids == text[2:].tolist()


def test_a_prompt_is_read_once_for_all_its_texts():
    model = lively_model(16, "float64")
    shapes = []
    forward = model.decoder.forward
    model.decoder.forward = lambda ids, **o: shapes.append(ids.shape) or forward(ids, **o)  # type: ignore[method-assign]
    generate(model, [[1, 2], [3, 4]], max_new_tokens=3, do_sample=True, num_return_sequences=4)
    assert shapes == [(2, 2), (8, 1), (8, 1)]


def test_rows_that_ended_cost_nothing_and_are_padded():
    model = lively_model(16, "float64")
    prompts = [[n] for n in range(V)]
    free = generate(model, prompts, max_new_tokens=8)
    end = int(free[0, 3])
    batches = []
    forward = model.decoder.forward
    model.decoder.forward = lambda ids, **o: batches.append(len(ids)) or forward(ids, **o)  # type: ignore[method-assign]
    found = generate(model, prompts, max_new_tokens=8, eos_token_id=[end, 22], pad_token_id=1)
    lengths = []
    for row, text in zip(free, found, strict=True):
        stops = [i for i in range(1, 9) if row[i] in (end, 22)]
        length = stops[0] + 1 if stops else 9
        assert text[:length].tolist() == row[:length].tolist()
        assert (text[length:] == 1).all()
        lengths.append(length)
    assert len(set(lengths)) > 2
    assert batches == [sum(n > step + 1 for n in lengths) for step in range(max(lengths) - 1)]
    default = generate(model, prompts, max_new_tokens=8, eos_token_id=[end, 22])
    assert default[0, -1] == end, "the first end token fills where no other is given"


def test_the_seed_decides_and_the_default_is_fixed():
    model = lively_model(40, "float64")
    names = {"max_new_tokens": 30, "do_sample": True}
    first, again = generate(model, [1], **names), generate(model, [1], **names)
    assert first.tolist() == again.tolist()
    assert first.tolist() == generate(model, [1], seed=0, **names).tolist()
    assert first.tolist() != generate(model, [1], seed=1, **names).tolist()


def test_a_stream_yields_each_token_before_computing_the_next():
    model = lively_model(8, "float64")
    calls = []
    forward = model.decoder.forward
    model.decoder.forward = lambda *a, **o: calls.append(1) or forward(*a, **o)  # type: ignore[method-assign]
    tokens = stream_ids(model, [1, 2], max_new_tokens=5)
    assert len(calls) == 0
    for n in range(1, 6):
        next(tokens)
        assert len(calls) == n
    with pytest.raises(StopIteration):
        next(tokens)


def test_with_the_cache_each_token_costs_one_position():
    model = lively_model(8, "float64")
    widths = []
    forward = model.decoder.forward
    model.decoder.forward = lambda ids, **o: widths.append(ids.shape[1]) or forward(ids, **o)  # type: ignore[method-assign]
    generate(model, [1, 2, 3], max_new_tokens=16, overflow="window")
    # A prompt of 3; 5 more fill the window of 8; then 4 are read again, and so every 5 tokens.
    assert widths == [3, 1, 1, 1, 1, 1, 4, 1, 1, 1, 1, 4, 1, 1, 1, 1]


def test_dropout_is_off_while_generating_and_the_mode_is_restored():
    model = lively_model(32, "float64", dropout=0.5)
    before = model.generator.state_dict()
    names = {"max_new_tokens": 20}
    assert generate(model, [1], **names).tolist() == generate(model, [1], **names).tolist()
    assert model.training
    assert model.generator.state_dict() == before
    next(stream_ids(model, [1], **names))
    assert model.training, "a stream that is left early restores the mode too"
    model.eval()
    generate(model, [1], max_new_tokens=2)
    assert not model.training


def test_zero_tokens_are_the_prompt():
    model = lively_model(8, "float64")
    assert generate(model, [1, 2], max_new_tokens=0).tolist() == [[1, 2]]
    two = generate(model, [1, 2], max_new_tokens=0, do_sample=True, num_return_sequences=2)
    assert two.tolist() == [[1, 2], [1, 2]]


def test_a_processor_of_ones_own_gets_ids_and_scores():
    model = lively_model(16, "float64")
    seen = []

    def only_even(ids: Any, scores: Any) -> Any:
        seen.append([row.tolist() for row in ids])
        return np.where(np.arange(V) % 2 == 0, scores, -np.inf)

    found = generate(
        model, [[1], [2, 3]], max_new_tokens=5, logits_processor=[only_even], pad_token_id=0
    )
    assert (found[:, 2:] % 2 == 0).all()
    assert seen[0] == [[1], [2, 3]]
    assert seen[2] == [found[0, 1:4].tolist(), found[1, :4].tolist()]


class Collector:
    def __init__(self) -> None:
        self.put_: list[Any] = []
        self.ended = 0

    def put(self, value: np.ndarray) -> None:
        self.put_.append(value.tolist())

    def end(self) -> None:
        self.ended += 1


def test_a_streamer_gets_the_prompts_and_each_step():
    model = lively_model(16, "float64")
    streamer = Collector()
    free = generate(model, [[1], [2]], max_new_tokens=6)
    end = int(free[0, 2])
    found = generate(
        model, [[1], [2]], max_new_tokens=6, eos_token_id=end, pad_token_id=0, streamer=streamer
    )
    assert streamer.put_[0] == [[1], [2]]
    assert np.array(streamer.put_[1:]).T.tolist() == found[:, 1:].tolist()
    assert streamer.ended == 1
    with pytest.raises(UserError, match="a streamer is not for num_beams"):
        generate(model, [1], max_new_tokens=2, num_beams=2, streamer=streamer)


def test_a_streamer_is_ended_when_the_text_is_interrupted():
    class Interrupts(Collector):
        def put(self, value: np.ndarray) -> None:
            super().put(value)
            if len(self.put_) == 3:
                raise KeyboardInterrupt

    streamer = Interrupts()
    with pytest.raises(KeyboardInterrupt):
        generate(lively_model(16, "float64"), [1], max_new_tokens=6, streamer=streamer)
    assert streamer.ended == 1


@pytest.mark.parametrize(
    ("prompt", "names", "words"),
    [
        ([], {}, "at least one token id"),
        ([[1], []], {}, "prompt 1 has none"),
        ([0, 23], {}, r"token id 23 at position 1 of the prompt is outside the vocabulary 0..22"),
        ([[1], [4, 5, -2]], {}, "token id -2 at position 2 of prompt 1 is outside"),
        ([-1], {}, "token id -1 at position 0"),
        ([[[0, 1]]], {}, r"shape \(1, 2\)"),
        ([0.5], {}, "float64"),
        ([True], {}, "bool"),
        (["a"], {}, "not text: use the tokenizer's encode"),
        ("abc", {}, "not text: use the tokenizer's encode"),
        (None, {}, "a prompt is a sequence of at least one token id"),
        ([1, [2]], {}, "a prompt is a sequence of at least one token id"),
        ([[1], [2, 3]], {}, "prompts of different lengths need a pad_token_id"),
        (
            [[1], [2]],
            {"stop_strings": "x", "tokenizer": 1},
            "texts with stop_strings, or with a constraint and no eos_token_id, need a pad",
        ),
        ([1], {"stop_strings": "x"}, "stop_strings need the model's tokenizer"),
        ([[1], [2]], {"lengths": [1, 1]}, r"lengths are for prompts in one array \(B, T\)"),
        (np.ones((2, 3), int), {"lengths": [1, 4]}, "lengths must be from 1 to 3"),
        (np.ones((2, 3), int), {"lengths": [0, 3]}, "lengths must be from 1 to 3"),
        (np.ones((2, 3), int), {"lengths": [1]}, r"lengths must be integers of shape \(2,\)"),
        (np.array([[1, 0], [1, 2]]), {"pad_token_id": 0}, "prompt 0 has padding on the right"),
        (np.array([[0, 0], [1, 2]]), {"pad_token_id": 0}, "prompt 0 consists of padding"),
        (
            np.array([[0, 1], [1, 2]]),
            {"pad_token_id": 0, "eos_token_id": 0},
            "prompt 0 begins with token 0, which is both pad_token_id and an eos_token_id",
        ),
    ],
)
def test_bad_prompts_are_refused(prompt: Any, names: dict[str, Any], words: str):
    with pytest.raises(UserError, match=words) as found:
        generate(lively_model(8, "float64"), prompt, max_new_tokens=3, **names)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("prompt", "names", "words"),
    [
        ([], {}, "at least one token id"),
        ([[1], [2]], {}, "one prompt is streamed, not 2"),
        ([1], {"num_beams": 2}, "cannot be streamed with num_beams"),
        ([1], {"do_sample": True, "num_return_sequences": 2}, "not num_return_sequences"),
        ([1, 2, 3], {"max_new_tokens": 6}, "do not fit the context of 8"),
    ],
)
def test_a_stream_refuses_at_once(prompt: Any, names: dict[str, Any], words: str):
    with pytest.raises(UserError, match=words):
        stream_ids(lively_model(8, "float64"), prompt, **{"max_new_tokens": 3, **names})
