"""Continuing a text token by token, with a cache of keys and values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from byhand import backend
from byhand.errors import UserError
from byhand.generation.sampling import check, choose, probabilities

if TYPE_CHECKING:
    from byhand.models.gpt import GPT


def generate(
    model: GPT,
    ids: npt.ArrayLike,
    tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    rng: np.random.Generator | None = None,
    cache: bool = True,
) -> npt.NDArray[np.int64]:
    """The `tokens` ids that continue the prompt `ids` (T,), as an int64 array (tokens,).

    Temperature 0 always takes the best token; otherwise `rng` draws (default: a fixed seed), from
    the `top_k` best if given. With `cache` each token costs one position instead of the whole
    window; without it the ids are the same.
    """
    return np.fromiter(
        stream(model, ids, tokens, temperature, top_k, rng, cache), dtype=np.int64, count=tokens
    )


def stream(
    model: GPT,
    ids: npt.ArrayLike,
    tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    rng: np.random.Generator | None = None,
    cache: bool = True,
) -> Iterator[int]:
    """`generate`, yielding each id as soon as it is known.

    Positions are absolute (each place in the window has its own learned vector), so a full window
    cannot slide by one and keep its cache. When it is full its older half is dropped and the newer
    half is read again from position 0. A prompt longer than the context is cut to its end.
    """
    check(temperature, top_k)
    if tokens < 0:
        raise UserError(f"the number of tokens must be 0 or more, not {tokens}")
    window = _checked_prompt(ids, model.config.vocabulary_size)[-model.config.context_size :]
    rng = rng if rng is not None else np.random.default_rng(0)
    return _stream(model, window, tokens, temperature, top_k, rng, cache)


def _stream(
    model: GPT,
    window: list[int],
    tokens: int,
    temperature: float,
    top_k: int | None,
    rng: np.random.Generator,
    cache: bool,
) -> Iterator[int]:
    context = model.config.context_size
    with inference(model):
        weights = model.arena.values
        memory = model.new_cache(1) if cache else None
        unread = window
        for _ in range(tokens):
            ids = backend.to_device_of(np.array([window if memory is None else unread]), weights)
            logits = backend.to_numpy(model(ids, cache=memory)[0, -1])
            token = choose(probabilities(logits, temperature, top_k), rng)
            yield token
            window = [*window, token]
            unread = [token]
            if len(window) > context:
                window = unread = window[-(context - context // 2) :]
                if memory is not None:
                    memory.reset()


@contextmanager
def inference(model: GPT) -> Iterator[None]:
    """Evaluation mode, without dropout and without saving for backward; then the former mode."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        if training:
            model.train()


def _checked_prompt(ids: npt.ArrayLike, vocabulary_size: int) -> list[int]:
    prompt = np.asarray(ids)
    if prompt.ndim != 1 or prompt.size == 0 or not np.issubdtype(prompt.dtype, np.integer):
        raise UserError(
            f"a prompt is a sequence of at least one token id, not {prompt.dtype} of shape "
            f"{prompt.shape}"
        )
    outside = (prompt < 0) | (prompt >= vocabulary_size)
    if outside.any():
        position = int(outside.argmax())
        raise UserError(
            f"token id {prompt[position]} at position {position} of the prompt is outside the "
            f"vocabulary 0..{vocabulary_size - 1}"
        )
    return [int(token) for token in prompt]
