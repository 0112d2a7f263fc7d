"""Text to token ids and back."""

from byhand.text.character import CharacterTokenizer
from byhand.text.tokenizer import Tokenizer, opening, tokenizer_of

__all__ = ["CharacterTokenizer", "Tokenizer", "opening", "tokenizer_of"]
