"""Normalisers: what changes a text before it is divided into words."""

from __future__ import annotations

import base64
import binascii
import functools
from collections.abc import Callable
from typing import Any

from byhand import _text
from byhand.errors import UserError
from byhand.text import pretokenise
from byhand.text.components import choose, encode, field, flatten


def make(description: object) -> list[_text.Normaliser]:
    """The normalisers of a tokenizer.json's "normalizer" (None: none), to be applied in order.

    Characters have the properties of Unicode 16.0. UserError if a type is unknown or a value is
    wrong.
    """
    made: list[_text.Normaliser] = []
    for part in flatten(description, "normalizer"):
        made += choose(_TYPES, part, "normalizer")
    return made


@functools.cache
def nmt_nfkc() -> dict[str, Any]:
    """The description of SentencePiece's usual normalisation, for a tokenizer that is trained: as
    a charsmap, which SentencePiece can read too.
    """
    charsmap = base64.b64encode(_text.nmt_nfkc_charsmap()).decode("ascii")
    return {"type": "Precompiled", "precompiled_charsmap": charsmap, "longest_match": True}


def _bert(description: dict[str, Any]) -> list[_text.Normaliser]:
    lower = field(description, "lowercase", bool, True)
    made = _text.BertNormaliser(
        clean=field(description, "clean_text", bool, True),
        chinese=field(description, "handle_chinese_chars", bool, True),
        accents=field(description, "strip_accents", bool, lower),
        lower=lower,
    )
    return [made]


def _strip(description: dict[str, Any]) -> list[_text.Normaliser]:
    left = field(description, "strip_left", bool, True)
    return [_text.Strip(left=left, right=field(description, "strip_right", bool, True))]


def _replace(description: dict[str, Any]) -> list[_text.Normaliser]:
    content = encode(field(description, "content", str))
    return [_text.Replace(pretokenise.matches(description), content)]


def _precompiled(description: dict[str, Any]) -> list[_text.Normaliser]:
    """With "longest_match", the longest key of the charsmap is replaced, as SentencePiece does. A
    tokenizer.json of Hugging Face has no such name, and its tokenizers know only clusters of less
    than 6 bytes, of which they look up the shortest key, and single characters.
    """
    if description.get("precompiled_charsmap") is None:
        return []
    coded = field(description, "precompiled_charsmap", str)
    try:
        charsmap = base64.b64decode(coded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"Precompiled: precompiled_charsmap is not base64: {error}") from error
    longest = field(description, "longest_match", bool, False)
    return [_text.Precompiled(charsmap, longest=longest)] if charsmap else []


_TYPES: dict[str, Callable[[dict[str, Any]], list[_text.Normaliser]]] = {
    "BertNormalizer": _bert,
    "ByteLevel": lambda _: [],  # vocabularies hold the bytes themselves
    "Lowercase": lambda _: [_text.LowerCase()],
    "NFC": lambda _: [_text.NormalForm("nfc")],
    "NFD": lambda _: [_text.NormalForm("nfd")],
    "NFKC": lambda _: [_text.NormalForm("nfkc")],
    "NFKD": lambda _: [_text.NormalForm("nfkd")],
    "Nmt": lambda _: [_text.Nmt()],
    "Precompiled": _precompiled,
    "Prepend": lambda found: [_text.Prepend(encode(field(found, "prepend", str)))],
    "Replace": _replace,
    "Strip": _strip,
    "StripAccents": lambda _: [_text.Drop("mark")],
}
