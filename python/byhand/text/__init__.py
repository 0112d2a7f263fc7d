"""Text to token ids and back."""

from byhand.text.character import CharacterTokenizer
from byhand.text.tokenizer import Tokenizer, make_tokenizer, tokenizer_of

__all__ = ["CharacterTokenizer", "Tokenizer", "make_tokenizer", "tokenizer_of"]
