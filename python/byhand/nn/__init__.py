"""Layers: each owns its parameters and writes out its backward pass."""

from byhand.nn.layers import Dropout, Embedding, LayerNorm, Linear, RMSNorm
from byhand.nn.module import Generator, Module, Param
from byhand.nn.transformer import Block, CausalSelfAttention, FeedForward, KeyValueCache

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
    "RMSNorm",
]
