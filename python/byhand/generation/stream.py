"""One text as it grows, as token ids or as text in whole characters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from byhand.errors import UserError
from byhand.generation.config import GenerationConfig
from byhand.generation.constraint import Constraint
from byhand.generation.generate import grow, prepare, settings
from byhand.generation.processors import Processor
from byhand.generation.prompt_cache import PromptCache
from byhand.text.pipeline import PipelineTokenizer
from byhand.text.tokenizer import plain_ids


def stream_ids(
    model: Any,
    prompt: Any,
    config: GenerationConfig | None = None,
    *,
    logits_processor: Iterable[Processor | Constraint] = (),
    tokenizer: Any = None,
    prompt_cache: PromptCache | None = None,
    number: int = 0,
    **names: Any,
) -> Iterator[int]:
    """The ids that follow the prompt (T,), each as soon as it is chosen: those of `generate`.

    ``number`` says which text of the prompt, counted from 0, as those of num_return_sequences; the
    other arguments and the errors are those of `generate`. Errors come at once, before the first
    id. Several streams of one model may run by turns, and the model may be trained between two ids.
    """
    config = settings(config, names)
    if config.num_beams > 1 or config.penalty_alpha is not None:
        raise UserError("a text cannot be streamed with num_beams or penalty_alpha: use generate")
    if config.num_return_sequences > 1:
        raise UserError("one text is streamed, not num_return_sequences: use generate")
    session, processors, stops = prepare(
        model, prompt, config, None, logits_processor, tokenizer, prompt_cache
    )
    if len(session) != 1:
        raise UserError(f"one prompt is streamed, not {len(session)}: use generate")
    steps = grow(session, processors, stops, [session.ids[0]], number)
    return (int(tokens[0]) for _, tokens in steps)


def stream(
    model: Any,
    prompt: Any,
    config: GenerationConfig | None = None,
    *,
    tokenizer: Any = None,
    **options: Any,
) -> Iterator[str]:
    """The text that follows the prompt, in parts of whole characters, each as soon as no later
    token can change it.

    Args:
        prompt: a text, or its ids (T,).
        tokenizer: None: the model's (`byhand.load` gives it one).

    The options and the errors are those of `stream_ids`; UserError without a tokenizer.
    """
    tokenizer = getattr(model, "tokenizer", None) if tokenizer is None else tokenizer
    if tokenizer is None:
        raise UserError(
            "a text is streamed with the model's tokenizer: give tokenizer=, or load the model "
            "with byhand.load"
        )
    if isinstance(prompt, str):
        text, prompt = prompt, plain_ids(tokenizer, prompt)
        if not len(prompt):
            raise UserError(f"the prompt {text!r:.60} has no tokens")
    ids = stream_ids(model, prompt, config, tokenizer=tokenizer, **options)
    return _decoded(ids, np.ravel(prompt), tokenizer)


def _decoded(ids: Iterable[int], prompt: Any, tokenizer: Any) -> Iterator[str]:
    """The text of ids that follow a prompt (T,), in parts of whole characters. What is certain is
    given before the next id is asked for.
    """
    if not isinstance(tokenizer, PipelineTokenizer):  # a token is a whole character or word
        for id in ids:
            yield tokenizer.decode([id])
        return
    decoding = tokenizer.stream()
    decoding.follow(prompt)
    for id in ids:
        if part := decoding.add(id):
            yield part
    if part := decoding.finish():
        yield part
