"""How well a tokenizer suits a text: tokens for each byte, word and language, and what it does not
know.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from byhand.errors import UserError
from byhand.text.samples import SAMPLES
from byhand.text.tokenizer import plain_ids

if TYPE_CHECKING:
    from byhand.text.tokenizer import Tokenizer

LONGEST = 10


def evaluate_text(tokenizer: Tokenizer, blocks: Iterable[str]) -> dict[str, Any]:
    """Counts and rates of a text in consecutive pieces.

    "characters", "bytes" (of UTF-8), "words" (between white space), "tokens", "bytes_per_token",
    "characters_per_token", "tokens_per_word", "unknown_rate" (the share of the tokens that are the
    token for the unknown), "vocabulary_used" (the share of the vocabulary that occurs).
    """
    size = len(tokenizer)
    counts = np.zeros(size, np.int64)
    characters = data = words = 0
    for block in _between_words(blocks):
        counts += np.bincount(plain_ids(tokenizer, block), minlength=size)
        characters += len(block)
        data += len(block.encode("utf-8"))
        words += len(block.split())
    tokens = int(counts.sum())
    if not characters:
        raise UserError("the text is empty: there is nothing to measure")
    unknown = getattr(tokenizer, "unk_token_id", None)
    return {
        "characters": characters,
        "bytes": data,
        "words": words,
        "tokens": tokens,
        "bytes_per_token": data / max(tokens, 1),
        "characters_per_token": characters / max(tokens, 1),
        "tokens_per_word": tokens / max(words, 1),
        "unknown_rate": 0.0 if unknown is None else int(counts[unknown]) / max(tokens, 1),
        "vocabulary_used": int(np.count_nonzero(counts)) / size,
    }


def evaluate_languages(tokenizer: Tokenizer) -> dict[str, dict[str, Any]]:
    """For each language of SAMPLES the numbers of `evaluate_text`, and "round_trip": whether the
    decoded tokens are the text. None for a text that the tokenizer refuses.
    """
    rows: dict[str, dict[str, Any]] = {}
    for language, text in SAMPLES.items():
        try:
            found: dict[str, Any] = evaluate_text(tokenizer, [text])
        except UserError:
            rows[language] = {"refused": True}
            continue
        del found["vocabulary_used"]
        found["round_trip"] = tokenizer.decode(plain_ids(tokenizer, text)) == text
        rows[language] = found
    return rows


def longest_tokens(tokenizer: Tokenizer, number: int = LONGEST) -> list[tuple[int, str]]:
    """The ids and texts of the tokens with the most characters, special tokens left out."""
    special = getattr(tokenizer, "special_tokens", {})
    left_out = set(special.values())
    texts = ((id, tokenizer.decode([id])) for id in range(len(tokenizer)) if id not in left_out)
    return sorted(texts, key=lambda item: (-len(item[1]), item[0]))[:number]


def _between_words(blocks: Iterable[str]) -> Iterator[str]:
    """The blocks, divided anew before white space: a word is never in two of them."""
    waiting: list[str] = []
    for block in blocks:
        end = max(block.rfind(" "), block.rfind("\n"))
        if end > 0:
            yield "".join([*waiting, block[:end]])
            waiting = [block[end:]]
        else:
            waiting.append(block)
    yield "".join(waiting)
