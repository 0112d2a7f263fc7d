"""Layers: each owns its parameters and writes out its backward pass."""

from .layers import Dropout, Embedding, LayerNorm, Linear
from .module import Generator, Module, Param
from .transformer import Block, CausalSelfAttention, FeedForward, KeyValueCache

__all__ = [
    "Block",
    "CausalSelfAttention",
    "Dropout",
    "Embedding",
    "FeedForward",
    "Generator",
    "KeyValueCache",
    "LayerNorm",
    "Linear",
    "Module",
    "Param",
]
