"""How long the text of each token is, so that losses of different tokenizers can be compared."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from byhand.text.bytes_alphabet import to_bytes

_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")

Lengths = npt.NDArray[np.int64]


def token_lengths(tokenizer: Any) -> tuple[Lengths, Lengths]:
    """The characters and the UTF-8 bytes that each token adds to a text, int64 (V,) each.

    They add up to the length of the text for tokenizers that can give back every text. A token that
    is part of a character counts as one where the character begins. Special tokens, and so the
    token for the unknown, add nothing.
    """
    special = getattr(tokenizer, "special_tokens", {})
    texts = [_text_of(tokenizer, id, special) for id in range(len(tokenizer))]
    characters = [sum(byte & 0xC0 != 0x80 for byte in text) for text in texts]
    return np.array(characters, np.int64), np.array([len(text) for text in texts], np.int64)


def _text_of(tokenizer: Any, id: int, special: Collection[str]) -> bytes:
    """The UTF-8 that a token adds to a text that has begun."""
    if tokenizer.kind == "character":
        text: str = tokenizer.decode([id])
        return text.encode("utf-8")
    token = tokenizer.id_to_token(id)
    if token is None or token in special:
        return b""
    if (byte := _BYTE.fullmatch(token)) is not None:
        return bytes([int(byte[1], 16)])
    if tokenizer.byte_level:
        return _bytes_or_text(token)
    # What a decoder takes from the beginning of a text stays if the token comes twice.
    once, twice = tokenizer.decode([id]), tokenizer.decode([id, id])
    return twice[len(once) :].encode("utf-8")


def _bytes_or_text(token: str) -> bytes:
    try:
        return to_bytes(token)
    except ValueError:  # an added token, which is not written byte by byte
        return token.encode("utf-8")
