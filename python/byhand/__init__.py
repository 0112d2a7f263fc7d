"""byhand: neural networks by hand.

Hand-written C++ and CUDA kernels, and a hand-written backward pass for every model.
"""

from . import backend, nn, ops, optim
from .backend import get_num_threads, set_num_threads
from .gradcheck import gradcheck
from .info import __version__, info
from .models import GPT, GPTConfig

__all__ = [
    "GPT",
    "GPTConfig",
    "__version__",
    "backend",
    "get_num_threads",
    "gradcheck",
    "info",
    "nn",
    "ops",
    "optim",
    "set_num_threads",
]
