"""byhand: neural networks by hand.

Hand-written C++ and CUDA kernels, and a hand-written backward pass for every model.
"""

from byhand import backend, nn, ops, optim
from byhand.backend import cuda_reason, get_num_threads, set_num_threads
from byhand.gradcheck import gradcheck
from byhand.info import __version__, info
from byhand.models import GPT, GPTConfig

__all__ = [
    "GPT",
    "GPTConfig",
    "__version__",
    "backend",
    "cuda_reason",
    "get_num_threads",
    "gradcheck",
    "info",
    "nn",
    "ops",
    "optim",
    "set_num_threads",
]
