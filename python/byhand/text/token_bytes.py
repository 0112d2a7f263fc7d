"""The bytes that each token adds to a text."""

from __future__ import annotations

import re
from typing import Any

from byhand.errors import UserError
from byhand.text import bytes_alphabet
from byhand.text.character import CharacterTokenizer
from byhand.text.components import flatten
from byhand.text.description import Description

_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")
# Decoders that write a token in the same way behind every text. "Strip" takes a space from the
# beginning of the whole text, which is the prompt's.
_JOINING = {"Metaspace", "Replace", "ByteFallback", "Fuse", "Strip"}


def token_bytes(tokenizer: Any) -> list[bytes]:
    """The bytes that the token with each id writes behind a text, at the index that is the id; b""
    for special tokens, for the unknown token, and for ids without a token.

    They may be a part of a character. UserError for a tokenizer whose tokens write different texts
    in different places, such as WordPiece, which puts spaces between words.
    """
    if isinstance(tokenizer, CharacterTokenizer):
        return [character.encode("utf-8") for character in tokenizer.characters]
    description: Description | None = getattr(tokenizer, "description", None)
    if description is None:
        raise UserError(f"the bytes of the tokens of {type(tokenizer).__name__} are not known")
    steps = flatten(description["decoder"], "decoder")
    kinds = {step["type"] for step in steps}
    special = {*tokenizer.special_tokens.values(), tokenizer.unk_token_id}
    listed = [
        "" if id in special else tokenizer.id_to_token(id) or "" for id in range(len(tokenizer))
    ]
    if kinds == {"ByteLevel"} and tokenizer.byte_level:
        return [_of_alphabet(token) for token in listed]
    if not kinds or not kinds <= _JOINING or any(_is_pattern(step) for step in steps):
        raise UserError(
            "the tokens of this tokenizer write spaces that depend on their place: what they write "
            "is known for tokenizers of characters, of bytes, and those that keep spaces as \u2581"
        )
    return [_written(token, steps) for token in listed]


def _is_pattern(step: Description) -> bool:
    return step["type"] == "Replace" and "String" not in step["pattern"]


def _of_alphabet(token: str) -> bytes:
    if bytes_alphabet.is_alphabet(token):
        return bytes_alphabet.to_bytes(token)
    return token.encode("utf-8")


def _written(token: str, steps: list[Description]) -> bytes:
    for step in steps:
        if step["type"] == "Metaspace":
            token = token.replace(step.get("replacement", "\u2581"), " ")
        elif step["type"] == "Replace":
            token = token.replace(step["pattern"]["String"], step["content"])
        elif step["type"] == "ByteFallback" and (byte := _BYTE.fullmatch(token)):
            return bytes([int(byte[1], 16)])
    return token.encode("utf-8")
