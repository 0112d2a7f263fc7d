"""The mode of a module: whether dropout is active, and whether forward passes save for a backward
pass.

Each module has a mode of its own. `Modes`, inside a ``with`` block, sets others for the current
thread (or asyncio task) only, so a thread that generates text does not change the mode in which
another thread trains the same model.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any


class _Frame(dict[int, list[bool | None]]):
    """{id of a module: [training, saving]} of one ``with`` block; None: not set by the block."""

    outer: _Frame | None


# Of the innermost block that sets packed weights: {parameter: weights}, and the next outer block.
_packed: ContextVar[tuple[dict[Any, Any] | None, Any]] = ContextVar(
    "byhand_packed", default=(None, ())
)
_frame: ContextVar[_Frame | None] = ContextVar("byhand_modes", default=None)
_OWN = "_training", "_saves"  # a module's attributes for its own mode
_TRAINING, _SAVING = 0, 1


class Modes:
    """A ``with`` block in which these modules have the given mode; None leaves that part of it.

    What ``train()``, ``eval()`` and ``inference()`` set inside the block ends with it. May be
    entered again, also while it is active, and by several threads.
    """

    def __init__(self, modules: Iterable[Any], training: bool | None, saving: bool | None):
        self._modules = list(modules)  # also keeps their ids valid
        self._mode = training, saving

    def __enter__(self) -> None:
        frame = _Frame((id(module), list(self._mode)) for module in self._modules)
        frame.outer = _frame.get()
        _frame.set(frame)

    def __exit__(self, *error: object) -> None:
        frame = _frame.get()
        assert frame is not None
        _frame.set(frame.outer)


def enter_packed(weights: dict[Any, Any] | None) -> None:
    """Begins a block of this thread in which these weights are used; None: none are."""
    _packed.set((weights, _packed.get()))


def leave_packed() -> None:
    """Ends the innermost of these blocks."""
    _packed.set(_packed.get()[1])


def packed(parameter: Any) -> Any:
    """The packed weights that take the place of a parameter in this thread, or None."""
    weights = _packed.get()[0]
    return None if weights is None else weights.get(parameter)


def training(module: Any) -> bool:
    """Whether dropout is active in the module, in this thread."""
    set_here = None if _frame.get() is None else _set_here(module, _TRAINING)
    return bool(module._training if set_here is None else set_here[_TRAINING])


def saving(module: Any) -> bool:
    """Whether forward passes of the module save, in this thread."""
    set_here = None if _frame.get() is None else _set_here(module, _SAVING)
    return bool(module._saves if set_here is None else set_here[_SAVING])


def set_mode(module: Any, training: bool | None, saving: bool | None) -> None:
    """Sets the module's mode: until the end of the innermost ``with`` block that has set it, or
    without one for all threads. None leaves that part of it.
    """
    for part, value in enumerate((training, saving)):
        if value is None:
            continue
        set_here = _set_here(module, part)
        if set_here is None:
            setattr(module, _OWN[part], value)
        else:
            set_here[part] = value


def _set_here(module: Any, part: int) -> list[bool | None] | None:
    """The entry of the innermost block of this thread that has set this part of the mode."""
    frame = _frame.get()
    while frame is not None:
        found = frame.get(id(module))
        if found is not None and found[part] is not None:
            return found
        frame = frame.outer
    return None
