"""The operations: each is a module with its public functions and its numpy reference.

    y, saved = ops.layernorm.forward(x, w, b)
    dx = ops.layernorm.backward(dy, saved, dw, db)

Gradients of activations are returned, gradients of parameters are added into the arrays passed for
them (None when frozen). No argument is changed unless the docstring says so, and nothing is copied
silently.

The folder is the registry: a module here is an operation, imported when it is first used.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType
from typing import Any

from byhand.backend.reference import reference

_SHARED = {"check", "declare", "heads", "philox", "precision"}  # what several operations use

__all__ = sorted(
    stem
    for stem, extension in map(os.path.splitext, os.listdir(os.path.dirname(__file__)))
    if extension == ".py" and not stem.startswith("_") and stem not in _SHARED
)


def _import_all() -> list[ModuleType]:
    return [importlib.import_module(f"{__name__}.{name}") for name in __all__]


def __getattr__(name: str) -> Any:
    if name in __all__ or name in _SHARED:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"byhand.ops has no operation {name!r}; it has: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__


reference.import_with(_import_all)
