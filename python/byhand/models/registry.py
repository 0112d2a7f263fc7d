"""The folder is the registry: a model of kind "gpt" is the page ``byhand/models/gpt.py``.

A page exports ``Config``, ``Model`` and ``PRESETS``, and is imported when it is asked for.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from byhand.errors import UserError

_NO_PAGES = {"preset", "registry"}


def kinds() -> list[str]:
    """The kinds of models there are."""
    import byhand.models

    names = (module.name for module in pkgutil.iter_modules(byhand.models.__path__))
    return sorted(name for name in names if name not in _NO_PAGES and not name.startswith("_"))


def page(kind: str) -> ModuleType:
    """The page of a model; UserError if there is none of this kind."""
    if kind not in kinds():
        raise UserError(f"there is no model called {kind!r}: choose from {', '.join(kinds())}")
    return importlib.import_module(f"byhand.models.{kind}")


def kind_of(model_or_config: object) -> str:
    """The kind of a model or of a configuration: the name of its page."""
    return type(model_or_config).__module__.rpartition(".")[2]
