"""The mode of a model: what is set in a ``with`` block or a thread does not reach others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from byhand import GPT, GPTConfig, nn, optim
from byhand.generation import generate, stream_ids

CONFIG = GPTConfig(17, 9, 12, 3, 2, dropout=0.2)
IDS, TARGETS = np.random.default_rng(0).integers(0, 17, (2, 4, 7))


def modes_of(model: nn.Module) -> list[tuple[bool, bool]]:
    return [(module.training, module._saving) for _, module in model.named_modules()]


def step(model: GPT, optimizer: optim.AdamW) -> float:
    model.zero_grad()
    loss = model.loss(IDS, TARGETS)
    model.backward()
    optimizer.step(clip_norm=1.0)
    return float(loss)


def in_thread(work: Callable[[], Any]) -> Any:
    """What `work` returns in a thread of its own; an error there is raised here."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append((work(), None))
        except BaseException as error:
            results.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert results, "the thread did not end"
    result, error = results[0]
    if error is not None:
        raise error
    return result


# --- Streams --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", [True, False])
def test_streams_by_turns_give_what_each_gives_alone(cache):
    model = GPT(CONFIG, seed=1)
    names = {"max_new_tokens": 20, "do_sample": True, "use_cache": cache, "overflow": "window"}
    alone = [generate(model, [n], seed=n, **names)[0, 1:].tolist() for n in range(3)]
    before = modes_of(model)
    streams = [stream_ids(model, [n], seed=n, **names) for n in range(3)]
    by_turns = list(zip(*streams, strict=True))
    assert [list(ids) for ids in zip(*by_turns, strict=True)] == alone
    assert modes_of(model) == before


def test_a_stream_left_midway_changes_no_mode():
    model = GPT(CONFIG, seed=1)
    names = {"do_sample": True, "overflow": "window"}
    expected = generate(model, [2], max_new_tokens=6, **names)[0, 1:].tolist()
    left = stream_ids(model, [1], max_new_tokens=20, **names)
    other = stream_ids(model, [2], max_new_tokens=6, **names)
    found = [next(other)]
    next(left)
    assert all(training and saving for training, saving in modes_of(model))
    found += [next(other), next(other)]
    left.close()
    found += list(other)
    assert found == expected
    assert all(training and saving for training, saving in modes_of(model))


def test_a_model_may_be_trained_between_the_tokens_of_a_stream():
    def trained(streaming: bool) -> bytes:
        model = GPT(CONFIG, seed=1)
        optimizer = optim.AdamW(model, lr=1e-2)
        tokens = stream_ids(model, [1], max_new_tokens=20, overflow="window")
        for _ in range(5):
            if streaming:
                next(tokens)
            step(model, optimizer)
        return model.storage.values.tobytes()

    assert trained(True) == trained(False)


# --- Blocks ---------------------------------------------------------------------------------------


def test_setting_training_reaches_every_layer():
    model = GPT(CONFIG, seed=1)
    model.training = False
    assert not any(training for training, _ in modes_of(model))
    assert float(model.loss(IDS, TARGETS)) == float(model.loss(IDS, TARGETS))
    model.backward()  # it still saves
    model.discard_saved()
    model.train(False)
    assert not model.decoder.dropout.training
    model.train()
    assert model.decoder.dropout.training


def test_what_is_set_in_a_block_ends_with_it():
    model = GPT(CONFIG).eval()
    before = modes_of(model)
    with model.in_inference():
        assert modes_of(model) == [(False, False)] * len(before)
        model.train()
        assert modes_of(model) == [(True, True)] * len(before)
        with model.no_save():
            assert modes_of(model) == [(True, False)] * len(before)
            model.eval()
        assert model.training is False
        assert model._saving
    assert modes_of(model) == before


def test_no_save_leaves_the_rest_of_the_mode_alone():
    model = GPT(CONFIG)
    with model.no_save():
        model.eval()  # sets whether dropout is active for good, and saving for the block
        assert not model.training
    assert not model.training
    assert model._saving


def test_a_block_that_ends_with_an_error_ends():
    model = GPT(CONFIG)
    with pytest.raises(KeyError), model.in_inference():
        raise KeyError
    assert all(training and saving for training, saving in modes_of(model))


def test_a_block_of_a_part_is_about_that_part():
    model = GPT(CONFIG)
    with model.decoder.blocks[0].in_inference():
        assert not model.decoder.blocks[0].ffn.training
        assert model.decoder.blocks[1].ffn.training
        assert model.training


def test_a_block_may_be_entered_again():
    model = GPT(CONFIG)
    inference = model.in_inference()
    for _ in range(2):
        with inference, inference:
            assert not model.training
        assert model.training


# --- Threads --------------------------------------------------------------------------------------


def test_a_block_is_about_its_thread():
    model = GPT(CONFIG)
    with model.in_inference():
        assert in_thread(lambda: model.training)
        assert in_thread(lambda: model._saving)
        assert not model.training
    model.eval()
    assert not in_thread(lambda: model.training)


def test_a_block_is_about_its_asyncio_task():
    model = GPT(CONFIG)
    seen = []

    async def infers() -> None:
        with model.in_inference():
            await asyncio.sleep(0.02)
            seen.append(model.training)

    async def looks() -> None:
        await asyncio.sleep(0.01)
        seen.append(model.training)

    async def both() -> None:
        await asyncio.gather(infers(), looks())

    asyncio.run(both())
    assert seen == [True, False]


def test_training_while_another_thread_generates_gives_the_same_bits():
    def trained() -> tuple[GPT, list[float]]:
        model = GPT(CONFIG, seed=1)
        optimizer = optim.AdamW(model, lr=1e-2)
        return model, [step(model, optimizer) for _ in range(60)]

    alone, losses = trained()
    model = GPT(CONFIG, seed=1)
    optimizer = optim.AdamW(model, lr=1e-2)
    done, written, errors = threading.Event(), [], []

    def infer() -> None:
        try:
            while not done.is_set():
                written.append(generate(model, [1], max_new_tokens=8, overflow="window"))
                with model.in_inference():
                    model.loss(IDS, TARGETS)
                    with pytest.raises(IndexError):
                        model(IDS + 17)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=infer)
    thread.start()
    try:
        found = [step(model, optimizer) for _ in range(60)]
    finally:
        done.set()
        thread.join(60)
    assert errors == []
    assert written
    assert found == losses
    assert model.storage.values.tobytes() == alone.storage.values.tobytes()


def test_threads_infer_together():
    model = GPT(CONFIG, seed=1)

    def text(n: int) -> list[int]:
        names = {"max_new_tokens": 15, "do_sample": True, "overflow": "window"}
        return generate(model, [n], seed=n, **names).tolist()

    expected = [text(n) for n in range(4)]
    results: dict[int, list[int]] = {}
    threads = [threading.Thread(target=lambda n=n: results.update({n: text(n)})) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [results[n] for n in range(4)] == expected


def test_two_threads_that_train_one_model_are_told():
    model = GPT(CONFIG, seed=1)
    model.loss(IDS, TARGETS)
    message = "two threads train the same model: a forward pass of"
    with pytest.raises(RuntimeError, match=message):
        in_thread(lambda: model.loss(IDS, TARGETS))
    model.backward()  # what this thread has saved is still there
    in_thread(lambda: (model.loss(IDS, TARGETS), model.backward()))


def test_generating_is_not_slowed_by_the_mode():
    """The modes of all modules are collected once, not for each token."""
    model = GPT(CONFIG, seed=1)
    calls = []
    walk = nn.Module.walk
    model.walk = lambda: calls.append(1) or walk(model)  # type: ignore[method-assign]
    generate(model, [1], max_new_tokens=30, overflow="window")
    assert len(calls) == 1
