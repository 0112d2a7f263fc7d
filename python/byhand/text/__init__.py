"""Text to token ids and back."""

from byhand.text.character import CharacterTokenizer
from byhand.text.load import load, save
from byhand.text.tokenizer import Tokenizer, kind_named, make_tokenizer, tokenizer_of

__all__ = [
    "CharacterTokenizer",
    "Tokenizer",
    "kind_named",
    "load",
    "make_tokenizer",
    "save",
    "tokenizer_of",
]
