"""Contrastive search: likely tokens whose hidden state is unlike those of the text so far."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from byhand import backend
from byhand.generation import processors as scoring
from byhand.generation.beam import largest
from byhand.generation.config import GenerationConfig
from byhand.generation.processors import Processor
from byhand.generation.prompts import Row
from byhand.generation.session import Session
from byhand.generation.stopping import Stops, ended

States = npt.NDArray[np.floating]


def contrastive_search(
    session: Session, config: GenerationConfig, processors: list[Processor], stops: Stops
) -> list[Row]:
    """One text for each prompt. Of the top_k most probable tokens, that with the largest

        (1 - penalty_alpha) * p(token) - penalty_alpha * max_j cos(h(token), h_j)

    is chosen, where h_j are the decoder's last hidden states of the tokens so far and h(token) is
    that of the candidate behind them; of equal ones the more probable token. Source: Su et al.
    2022, "A contrastive framework for neural text generation", arXiv:2202.06417, equation 5.

    Each step reads all candidates of a row as a batch, so it costs top_k rows.
    """
    assert config.penalty_alpha is not None
    alpha = config.penalty_alpha
    texts = [row.copy() for row in session.ids]
    slots = np.arange(len(session))
    while True:
        done = ended(session, stops)
        for row in np.flatnonzero(done):
            texts[slots[row]] = session.ids[row].copy()
        if done.all():
            return texts
        session.select(~done)
        slots = slots[~done]
        scores = scoring.apply(processors, session.ids, session.logits)
        p = scoring.softmax(scores)
        count = min(config.top_k, p.shape[1])
        chances, tokens = largest(p, count)
        context = [_unit(states) for states in session.states]
        session.select(np.repeat(np.arange(len(slots)), count))
        session.extend(tokens.reshape(-1))
        candidates = _unit(backend.to_numpy(session.hidden)).reshape(len(slots), count, -1)
        penalty = np.array(
            [(c @ h.T).max(axis=1) for c, h in zip(candidates, context, strict=True)]
        )
        value = (1 - alpha) * chances - alpha * penalty
        value[chances == 0] = -np.inf  # excluded by a processor
        session.select(np.arange(len(slots)) * count + value.argmax(axis=1))


def _unit(states: States) -> States:
    """Vectors (..., C) divided by their length; zeros stay zeros."""
    length = np.sqrt((states * states).sum(axis=-1, keepdims=True))
    return states / np.maximum(length, np.finfo(states.dtype).tiny)
