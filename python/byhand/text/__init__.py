"""Text to token ids and back."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from byhand.text.character import CharacterTokenizer
from byhand.text.load import load, save
from byhand.text.tokenizer import Tokenizer, kind_named, make_tokenizer, tokenizer_of

if TYPE_CHECKING:
    from byhand.text.bpe import BPETokenizer
    from byhand.text.unigram import UnigramTokenizer
    from byhand.text.word import WordTokenizer
    from byhand.text.wordpiece import WordPieceTokenizer

__all__ = [
    "BPETokenizer",
    "CharacterTokenizer",
    "Tokenizer",
    "UnigramTokenizer",
    "WordPieceTokenizer",
    "WordTokenizer",
    "kind_named",
    "load",
    "make_tokenizer",
    "save",
    "tokenizer_of",
]

# Imported when they are first used: they need the native module _text.
_PLACES = {
    "BPETokenizer": "bpe",
    "UnigramTokenizer": "unigram",
    "WordPieceTokenizer": "wordpiece",
    "WordTokenizer": "word",
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(f"byhand.text.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'byhand.text' has no attribute {name!r}")
