"""byhand: neural networks by hand.

Hand-written C++ and CUDA kernels, and a hand-written backward pass for every model.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from byhand import (
        backend,
        data,
        generation,
        models,
        nn,
        ops,
        optim,
        runs,
        tasks,
        text,
        training,
    )
    from byhand.about import __version__, info
    from byhand.backend import cuda_reason, from_dlpack, get_num_threads, set_num_threads
    from byhand.models.bert import Bert, BertConfig
    from byhand.models.bloom import Bloom, BloomConfig
    from byhand.models.gpt import GPT, GPTConfig
    from byhand.models.llama import Llama, LlamaConfig
    from byhand.models.mlp import MLP, MLPConfig
    from byhand.nn.gradcheck import gradcheck
    from byhand.runs.load import load

__all__ = [
    "GPT",
    "MLP",
    "Bert",
    "BertConfig",
    "Bloom",
    "BloomConfig",
    "GPTConfig",
    "Llama",
    "LlamaConfig",
    "MLPConfig",
    "__version__",
    "backend",
    "cuda_reason",
    "data",
    "from_dlpack",
    "generation",
    "get_num_threads",
    "gradcheck",
    "info",
    "load",
    "models",
    "nn",
    "ops",
    "optim",
    "plot",
    "runs",
    "set_num_threads",
    "tasks",
    "text",
    "training",
]

# Everything is imported when it is first used. The names that are not modules of the package:
_PLACES = {
    **dict.fromkeys(
        ("cuda_reason", "from_dlpack", "get_num_threads", "set_num_threads"), "backend"
    ),
    **dict.fromkeys(("__version__", "info"), "about"),
    **dict.fromkeys(("Bert", "BertConfig"), "models.bert"),
    **dict.fromkeys(("Bloom", "BloomConfig"), "models.bloom"),
    **dict.fromkeys(("GPT", "GPTConfig"), "models.gpt"),
    **dict.fromkeys(("Llama", "LlamaConfig"), "models.llama"),
    **dict.fromkeys(("MLP", "MLPConfig"), "models.mlp"),
    "gradcheck": "nn.gradcheck",
    "load": "runs.load",
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        value = getattr(importlib.import_module(f"byhand.{_PLACES[name]}"), name)
        globals()[name] = value
        return value
    if name in __all__:
        return importlib.import_module(f"byhand.{name}")
    raise AttributeError(f"module 'byhand' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
