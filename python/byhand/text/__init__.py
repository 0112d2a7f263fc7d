"""Text to numbers and back."""

from byhand.text.character import CharacterTokenizer

__all__ = ["CharacterTokenizer"]
