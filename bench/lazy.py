"""PyTorch, imported at its first use: the GPU benchmarks also run where it is not installed."""

from __future__ import annotations

import importlib
from typing import Any


class _Lazy:
    """Stands for a module. An attribute is looked up once and kept, so it costs no time later."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        value = getattr(importlib.import_module(self._name), attribute)
        setattr(self, attribute, value)
        return value


torch: Any = _Lazy("torch")
F: Any = _Lazy("torch.nn.functional")
