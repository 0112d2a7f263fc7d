"""Finding modules by name: the model of kind "gpt" is the module `byhand.models.gpt`.

A new model, tokenizer, task or demo is one new file in its folder; there is no list to update.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from byhand.errors import UserError, suggestion

# What a module in each folder is called in messages, and the name under which it exports its class.
# The module of that name, such as text/tokenizer.py, defines the protocol and is not a kind.
_FOLDERS = {
    "demos": ("demo called", "Demo"),
    "models": ("model of kind", "Model"),
    "tasks": ("task of kind", "Task"),
    "text": ("tokenizer of kind", "Tokenizer"),
}


def find(folder: str, kind: str) -> ModuleType:
    """The module `byhand.<folder>.<kind>`, imported now; folder is "demos", "models", "tasks" or
    "text".

    UserError that lists the known kinds if there is no such kind.
    """
    word, required = _FOLDERS[folder]
    module = _load(folder, kind) if kind in _files(folder) else None
    if module is None or not hasattr(module, required):
        known = kinds(folder)
        near = suggestion(kind, known)
        raise UserError(f"there is no {word} {kind!r}{near}: choose from {', '.join(known)}")
    return module


def kinds(folder: str) -> list[str]:
    """The kinds that `find` finds in this folder, in alphabetical order. Imports all of them."""
    required = _FOLDERS[folder][1]
    return [name for name in _files(folder) if hasattr(_load(folder, name), required)]


def kind_of(thing: object) -> str:
    """The kind of a model, a configuration, a tokenizer or a task: the name of its module."""
    return type(thing).__module__.rpartition(".")[2]


def _files(folder: str) -> list[str]:
    package = importlib.import_module(f"byhand.{folder}")
    names = (module.name for module in pkgutil.iter_modules(package.__path__))
    protocol = _FOLDERS[folder][1].lower()
    return sorted(name for name in names if name != protocol and not name.startswith("_"))


def _load(folder: str, name: str) -> ModuleType:
    return importlib.import_module(f"byhand.{folder}.{name}")
