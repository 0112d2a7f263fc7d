"""Generating text: greedily, by sampling, or by a search that has a file of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from byhand.errors import UserError
from byhand.generation import processors as scoring
from byhand.generation.beam import beam_search
from byhand.generation.config import GenerationConfig
from byhand.generation.constraint import BoundConstraint, Constraint, constrain
from byhand.generation.contrastive import contrastive_search
from byhand.generation.processors import Processor
from byhand.generation.prompt_cache import PromptCache
from byhand.generation.prompts import Row
from byhand.generation.sampling import draw, row_keys, uniforms
from byhand.generation.session import Session
from byhand.generation.stopping import Stops, ended

Ids = npt.NDArray[np.int64]


def generate(
    model: Any,
    ids: Any,
    config: GenerationConfig | None = None,
    *,
    lengths: Any = None,
    logits_processor: Iterable[Processor | Constraint] = (),
    streamer: Any = None,
    tokenizer: Any = None,
    prompt_cache: PromptCache | None = None,
    **names: Any,
) -> Ids:
    """The prompts and what follows them: int64 (B * num_return_sequences, T), as Hugging Face's
    ``model.generate``. The texts of one prompt are side by side.

    Rows with shorter prompts are padded on the left, so that all new tokens begin in one column,
    and rows that ended earlier on the right, with ``config.padding``. An encoder-decoder model
    gives its decoder's ids, the start token first.

    Args:
        model: a language model (see `Session`).
        ids: the prompts (see `read_prompts`): (T,), a list of prompts, or (B, T).
        config: the settings; ``names`` are fields of it and replace its values.
        lengths: (B,), the lengths of prompts padded on the right.
        logits_processor: functions (ids, scores) -> scores of your own (see `processors`), and what
            `constrain` gives.
        streamer: an object with ``put(array)``, which gets the prompts (B, T) and then each step's
            tokens (B,), and ``end()``; not with a search.
        tokenizer: for stop_strings; None: the model's, where it has one.
        prompt_cache: a prefix that was read before; what the prompts have of it is not read again.

    TypeError for an unknown name, ValueError or UserError (which is one) for a setting or a prompt
    that is wrong.
    """
    config = settings(config, names)
    session, processors, stops = prepare(
        model, ids, config, lengths, logits_processor, tokenizer, prompt_cache
    )
    padding, count = _padding(session, stops), config.num_return_sequences
    begins = np.repeat(session.prompt_lengths, count)
    if config.num_beams > 1 or config.penalty_alpha is not None:
        if streamer is not None:
            raise UserError("a streamer is not for num_beams or penalty_alpha, which change texts")
        search = beam_search if config.num_beams > 1 else contrastive_search
        return _padded(search(session, config, processors, stops), begins, padding)
    texts = [row for row in session.ids for _ in range(count)]
    if streamer is not None:
        streamer.put(_padded(texts, begins, padding))
    try:
        for slots, tokens in grow(session, processors, stops, texts):
            if streamer is not None:
                step = np.full(len(texts), padding or 0)
                step[slots] = tokens
                streamer.put(step)
    finally:
        if streamer is not None:
            streamer.end()
    return _padded(texts, begins, padding)


def settings(config: GenerationConfig | None, names: dict[str, Any]) -> GenerationConfig:
    """The config with the fields ``names`` replaced. TypeError if it is none."""
    if config is None:
        return GenerationConfig(**names)
    if not isinstance(config, GenerationConfig):
        raise TypeError(
            f"config must be a GenerationConfig, got {config!r:.60}: names such as "
            "max_new_tokens=20 can be given to generate itself"
        )
    return config.replace(**names) if names else config


def prepare(
    model: Any,
    ids: Any,
    config: GenerationConfig,
    lengths: Any = None,
    own: Iterable[Processor | Constraint] = (),
    tokenizer: Any = None,
    prompt_cache: PromptCache | None = None,
) -> tuple[Session, list[Processor], Stops]:
    """A session with the prompts, the processors of its scores, and where its texts stop."""
    contrastive = config.penalty_alpha is not None
    session = Session(model, ids, config, lengths, contrastive, prompt_cache)
    if tokenizer is None:
        tokenizer = getattr(model, "tokenizer", None)
    if config.regex is not None or config.json_schema is not None:
        given = model if tokenizer is None else tokenizer
        own = [*own, constrain(given, regex=config.regex, json_schema=config.json_schema)]
    processors = scoring.build(config, session, own)
    constraints = [one for one in processors if isinstance(one, BoundConstraint)]
    return session, processors, Stops(config.stop_strings, tokenizer, constraints)


def grow(
    session: Session,
    processors: list[Processor],
    stops: Stops,
    texts: list[Row],
    number: int = 0,
) -> Iterator[tuple[Ids, Ids]]:
    """Greedy search or sampling: yields (slots, tokens) for each step, the tokens of the texts that
    have not ended, and writes each text into its slot of ``texts`` when it ends.

    ``texts`` has num_return_sequences entries for each prompt, side by side; ``number`` is that of
    the first of them. Rows that end leave the session, so that they cost nothing.
    """
    config = session.config
    slots = np.arange(len(texts))
    keys = row_keys(config.seed, session.prompts, config.num_return_sequences, number)
    if config.num_return_sequences > 1:
        if session.limits.any():
            _ = session.logits  # a prompt is read once for all its texts
        session.select(np.repeat(np.arange(len(session)), config.num_return_sequences))
    while True:
        done = ended(session, stops)
        if done.any():
            ids = session.ids
            for row in np.flatnonzero(done):
                texts[slots[row]] = ids[row].copy()
        if done.all():
            return
        session.select(~done)
        slots, keys = slots[~done], keys[~done]
        scores = scoring.apply(processors, session.ids, session.logits)
        if config.samples:
            tokens = draw(scores, uniforms(keys, session.steps))
        else:
            tokens = scores.argmax(axis=1)  # of equal ones the first
        session.extend(tokens)
        yield slots, tokens


def _padding(session: Session, stops: Stops) -> int | None:
    """The token that fills rows. UserError if one may be needed and there is none."""
    config, several = session.config, len(session) * session.config.num_return_sequences > 1
    if config.padding is None and several:
        reason = ""
        if len(set(session.lengths)) > 1:
            reason = "prompts of different lengths"
        elif stops:
            reason = "several texts with stop_strings, or with a constraint and no eos_token_id,"
        if reason:
            raise UserError(f"{reason} need a pad_token_id")
    return config.padding


def _padded(texts: list[Row], begins: Ids, padding: int | None) -> Ids:
    """The texts as rows of one array; their prompts, of ``begins`` tokens, end in one column."""
    left = begins.max() - begins
    made = np.full((len(texts), max(map(int, left + [len(t) for t in texts]))), padding or 0)
    for line, text, start in zip(made, texts, left, strict=True):
        line[start : start + len(text)] = text
    return made
