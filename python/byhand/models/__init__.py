"""Models: one page each, composed of layers."""

from byhand.models.gpt import GPT, GPTCache, GPTConfig

__all__ = ["GPT", "GPTCache", "GPTConfig"]
