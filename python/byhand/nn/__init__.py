"""Layers and losses: each declares its parameters and writes out its backward pass."""

from byhand.nn import init
from byhand.nn.activation import (
    ELU,
    GELU,
    SELU,
    LeakyReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Step,
    Tanh,
)
from byhand.nn.attention import MultiHeadAttention
from byhand.nn.cache import KeyValueCache
from byhand.nn.dropout import Dropout
from byhand.nn.embedding import Embedding
from byhand.nn.experts import MixtureOfExperts
from byhand.nn.feed_forward import FeedForward
from byhand.nn.flatten import Flatten
from byhand.nn.linear import Linear
from byhand.nn.linear_attention import LinearAttention
from byhand.nn.loss import (
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    HuberLoss,
    InfoNCELoss,
    MSELoss,
    NLLLoss,
)
from byhand.nn.module import Module
from byhand.nn.norm import LayerNorm, RMSNorm
from byhand.nn.parameter import Buffer, Parameter
from byhand.nn.passes import PilingUp
from byhand.nn.patterns import alibi_slopes, block_sparse_mask, local_global_mask
from byhand.nn.positions import LearnedPositions, RotaryPositions, SinusoidalPositions
from byhand.nn.random import Generator
from byhand.nn.sequential import Sequential
from byhand.nn.storage import Storage
from byhand.nn.swiglu import SwiGLU

__all__ = [
    "ELU",
    "GELU",
    "SELU",
    "BCEWithLogitsLoss",
    "Buffer",
    "CrossEntropyLoss",
    "Dropout",
    "Embedding",
    "FeedForward",
    "Flatten",
    "Generator",
    "HuberLoss",
    "InfoNCELoss",
    "KeyValueCache",
    "LayerNorm",
    "LeakyReLU",
    "LearnedPositions",
    "Linear",
    "LinearAttention",
    "MSELoss",
    "MixtureOfExperts",
    "Module",
    "MultiHeadAttention",
    "NLLLoss",
    "Parameter",
    "PilingUp",
    "RMSNorm",
    "ReLU",
    "RotaryPositions",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "SinusoidalPositions",
    "Softmax",
    "Softplus",
    "Step",
    "Storage",
    "SwiGLU",
    "Tanh",
    "alibi_slopes",
    "block_sparse_mask",
    "init",
    "local_global_mask",
]
