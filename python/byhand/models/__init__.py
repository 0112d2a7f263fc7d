"""Models: one page each, composed of layers."""

from .gpt import GPT, GPTCache, GPTConfig

__all__ = ["GPT", "GPTCache", "GPTConfig"]
