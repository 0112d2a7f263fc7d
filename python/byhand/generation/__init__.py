"""Text from a trained model, one token at a time."""

from byhand.generation.generate import generate, stream
from byhand.generation.sampling import probabilities, sample

__all__ = ["generate", "probabilities", "sample", "stream"]
