"""Text from a trained model, one token at a time."""

from byhand.generation.generate import generate, stream
from byhand.generation.sampling import choose, probabilities

__all__ = ["choose", "generate", "probabilities", "stream"]
