"""The operations: for each one a door (checks, allocation, what is saved) and its numpy reference.

    y, saved = ops.layernorm.forward(x, w, b)
    dx = ops.layernorm.backward(dy, saved, dw, db)

Gradients of activations are returned, gradients of parameters are added into the arrays passed for
them (None when frozen). Nothing passed to a door is changed unless its docstring says so, and
nothing is copied silently.
"""

from byhand.ops import (
    adamw,
    attention,
    bias_gelu,
    cross_entropy,
    dropout,
    embedding,
    gelu_ffn,
    grad_norm,
    layernorm,
    linear,
    linear_cross_entropy,
    log_softmax,
    matmul,
    rmsnorm,
    softmax,
)

__all__ = [
    "adamw",
    "attention",
    "bias_gelu",
    "cross_entropy",
    "dropout",
    "embedding",
    "gelu_ffn",
    "grad_norm",
    "layernorm",
    "linear",
    "linear_cross_entropy",
    "log_softmax",
    "matmul",
    "rmsnorm",
    "softmax",
]
