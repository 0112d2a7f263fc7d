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
    from byhand.backend import cuda_reason, get_num_threads, set_num_threads
    from byhand.info import __version__, info
    from byhand.models.gpt import GPT, GPTConfig
    from byhand.models.mlp import MLP, MLPConfig
    from byhand.nn.gradcheck import gradcheck
    from byhand.runs.load import load

# What is imported when it is first used: name -> the module that has it, or the module itself.
_PLACES = {
    **dict.fromkeys(("cuda_reason", "get_num_threads", "set_num_threads"), "byhand.backend"),
    **dict.fromkeys(("__version__", "info"), "byhand.info"),
    **dict.fromkeys(("GPT", "GPTConfig"), "byhand.models.gpt"),
    **dict.fromkeys(("MLP", "MLPConfig"), "byhand.models.mlp"),
    "gradcheck": "byhand.nn.gradcheck",
    "load": "byhand.runs.load",
}
_MODULES = (
    "backend",
    "data",
    "generation",
    "models",
    "nn",
    "ops",
    "optim",
    "runs",
    "tasks",
    "text",
    "training",
)

__all__ = [*_PLACES, *_MODULES]  # noqa: PLE0604  (all of them are strings)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"byhand.{name}")
    if name in _PLACES:
        value = getattr(importlib.import_module(_PLACES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'byhand' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
