"""Text from a trained model, one token at a time."""

from byhand.generation import processors
from byhand.generation.config import GenerationConfig
from byhand.generation.constraint import constrain
from byhand.generation.generate import generate
from byhand.generation.prompt_cache import PromptCache
from byhand.generation.session import Session
from byhand.generation.stream import stream, stream_ids

__all__ = [
    "GenerationConfig",
    "PromptCache",
    "Session",
    "constrain",
    "generate",
    "processors",
    "stream",
    "stream_ids",
]
