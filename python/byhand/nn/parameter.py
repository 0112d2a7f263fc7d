"""Parameters and buffers: declared with a shape and an initialiser, given memory by ``build``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from byhand import backend
from byhand.backend import Array
from byhand.nn.init import Init

if TYPE_CHECKING:
    from byhand.nn.storage import Storage


class Parameter:
    """A tensor that is trained. It is declared first and holds no array until ``Module.build``.

    Args:
        shape: a tuple of integers.
        init: called with (rng, shape), returns the first values; see `byhand.nn.init`.
        decay: whether weight decay applies; by default to tensors of two and more axes only
            (Radford et al., 2019, as nanoGPT and llm.c do it).
        trainable: False freezes it: it has no gradient, and no optimizer changes it.
        dtype: of the values; None: the model's. A trainable parameter always has the model's.

    Attributes:
        name: its path in the model that was built, such as "decoder.norm.weight".
        value: the values, a view of the model's flat buffer. Assigning copies into it.
        grad: the gradient accumulated so far, of the same shape; None when frozen.
        compute_value: what forward passes read: ``value`` itself or, in bf16 precision on a GPU, a
            bfloat16 copy of it.
    """

    __slots__ = (
        "_value",
        "compute_value",
        "decay",
        "dtype",
        "grad",
        "init",
        "name",
        "shape",
        "storage",
        "trainable",
    )

    _value: Array
    compute_value: Array
    grad: Array

    def __init__(
        self,
        shape: tuple[int, ...],
        init: Init,
        decay: bool | None = None,
        trainable: bool = True,
        dtype: Any = None,
    ):
        self.shape = tuple(int(n) for n in shape)
        self.init: Init | None = init
        self.decay = len(self.shape) >= 2 if decay is None else decay
        self.trainable = trainable
        self.dtype = None if dtype is None else np.dtype(dtype)
        if trainable and self.dtype is not None:
            raise ValueError("Parameter: only a frozen parameter has a dtype of its own")
        self.name = ""
        self.storage: Storage | None = None

    @property
    def built(self) -> bool:
        """Whether ``build`` has given it memory."""
        return self.storage is not None

    @property
    def value(self) -> Array:
        return self._value

    @value.setter
    def value(self, value: Array) -> None:
        if tuple(value.shape) != self.shape:
            raise ValueError(
                f"parameter {self.name} must have shape {self.shape}, got {tuple(value.shape)}"
            )
        self._value[...] = backend.to_device_of(value, self._value)
        assert self.storage is not None
        self.storage.refresh()

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def __getattr__(self, name: str) -> Any:
        # Called for an attribute that is not set: the parameter was not built.
        if name in ("_value", "compute_value", "grad"):
            raise RuntimeError(
                f"parameter {self.name or f'of shape {self.shape}'} has no values yet: call "
                "build() on the model that it is a part of"
            )
        raise AttributeError(f"Parameter has no attribute {name!r}")

    def __repr__(self) -> str:
        state = "" if self.trainable else ", frozen"
        return f"Parameter({self.name or 'unnamed'}, shape={self.shape}{state})"

    # The arrays are views of the storage, which is copied and pickled as a whole and then makes the
    # views again.
    def __getstate__(self) -> dict[str, Any]:
        state = {name: getattr(self, name) for name in _KEPT}
        if self.built:
            state["init"] = None  # no longer needed, and may be a function that cannot be pickled
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


_KEPT = ("decay", "dtype", "init", "name", "shape", "storage", "trainable")


class Buffer:
    """A tensor that belongs to a module and is not trained: running statistics, tables.

    It is saved in the state dict (unless ``persistent`` is False), moved with the model and cast
    with it if it is floating. ``value`` is an array of its own.
    """

    def __init__(self, shape: tuple[int, ...], init: Init, persistent: bool = True):
        self.shape = tuple(int(n) for n in shape)
        self.init: Init | None = init
        self.persistent = persistent
        self.name = ""
        self.value: Array = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "init": None if self.value is not None else self.init}
