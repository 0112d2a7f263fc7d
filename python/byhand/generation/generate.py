"""Generating text token by token, with a cache of keys and values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from byhand import backend
from byhand.errors import UserError
from byhand.generation.sampling import check, probabilities, sample


def generate(
    model: Any,
    ids: npt.ArrayLike,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    rng: np.random.Generator | None = None,
    cache: bool = True,
) -> npt.NDArray[np.int64]:
    """The ids that continue the prompt `ids` (T,): int64 of shape (max_new_tokens,).

    Args:
        model: a language model, such as `byhand.GPT`: with a `config` that has `vocabulary_size`
            and `context_size`, and with `new_cache`.
        temperature: the logits are divided by it; 0 always takes the most likely token.
        top_k: draw among the k most likely tokens only.
        rng: the random numbers; by default a generator with a fixed seed.
        cache: keep the keys and values of earlier positions, so that each token costs one position
            instead of the whole window. It does not change the ids.

    UserError for a prompt that is empty or has unknown ids, and for settings out of range.
    """
    tokens = stream(model, ids, max_new_tokens, temperature, top_k, rng, cache)
    return np.fromiter(tokens, dtype=np.int64, count=max_new_tokens)


def stream(
    model: Any,
    ids: npt.ArrayLike,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    rng: np.random.Generator | None = None,
    cache: bool = True,
) -> Iterator[int]:
    """`generate`, yielding each id as soon as it is known.

    Positions are absolute (each has a learned vector), so a full window cannot move by one token
    and keep its cache. When it is full, its older half is dropped and the newer half is read again
    from position 0. Of a prompt longer than the context only the end is read.
    """
    check(temperature, top_k)
    if max_new_tokens < 0:
        raise UserError(f"max_new_tokens must be at least 0, not {max_new_tokens}")
    window = _checked_prompt(ids, model.config.vocabulary_size)[-model.config.context_size :]
    rng = rng if rng is not None else np.random.default_rng(0)
    return _stream(model, window, max_new_tokens, temperature, top_k, rng, cache)


def _stream(
    model: Any,
    window: list[int],
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    rng: np.random.Generator,
    cache: bool,
) -> Iterator[int]:
    context = model.config.context_size
    with model.in_inference():
        weights = model.storage.values
        memory = model.new_cache(1) if cache else None
        unread = window
        for _ in range(max_new_tokens):
            ids = backend.to_device_of(np.array([window if memory is None else unread]), weights)
            logits = backend.to_numpy(model(ids, cache=memory)[0, -1])
            token = sample(probabilities(logits, temperature, top_k), rng)
            yield token
            window = [*window, token]
            unread = [token]
            if len(window) > context:
                window = unread = window[-(context - context // 2) :]
                if memory is not None:
                    memory.reset()


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
