"""Parameters and buffers: declared with a shape and an initialiser, given memory by ``build``."""

from __future__ import annotations

import copy
import math
import numbers
from typing import TYPE_CHECKING, Any

import numpy as np

from byhand import backend
from byhand.backend import Array
from byhand.errors import UserError
from byhand.nn.init import Init
from byhand.nn.protocol import taken

if TYPE_CHECKING:
    from byhand.nn.storage import Storage


class Parameter:
    """A tensor that is trained. It is declared first and holds no array until ``Module.build``.

    Args:
        shape: a tuple of integers.
        init: called with (rng, shape), returns the first values; see `byhand.nn.init`.
        decay: whether weight decay applies; by default to tensors of two and more axes only
            (Radford et al., 2019, as nanoGPT and llm.c do it). It may be set later; then a new
            optimizer must be made.
        trainable: False freezes it: it has no gradient, and no optimizer changes it.
        dtype: of the values; None: the model's. A trainable parameter always has the model's.

    Attributes:
        name: its path in the model that was built, such as "decoder.norm.weight".
        value: the values, a view of the model's flat buffer. Assigning copies into it.
        grad: the gradient accumulated so far, of the same shape, a view too; None when frozen.
            Assigning copies into it.
        trainable: whether it is trained; in a built model `Module.freeze` and `unfreeze` change it.
        compute_value: what forward passes read: ``value`` itself or, in bf16 precision on a GPU, a
            bfloat16 copy of it.
    """

    __slots__ = (
        "_decay",
        "_trainable",
        "compute_value",
        "dtype",
        "grad",
        "init",
        "name",
        "shape",
        "storage",
        "value",
    )

    value: Array
    grad: Any
    compute_value: Array

    def __init__(
        self,
        shape: tuple[int, ...],
        init: Init,
        decay: bool | None = None,
        trainable: bool = True,
        dtype: Any = None,
    ):
        self.shape = _checked_shape("Parameter", shape)
        self.init: Init | None = _checked_init("Parameter", init)
        self._decay = len(self.shape) >= 2 if decay is None else decay
        self._trainable = trainable
        self.dtype = None if dtype is None else np.dtype(dtype)
        if trainable and self.dtype is not None:
            raise ValueError("Parameter: only a frozen parameter has a dtype of its own")
        self.name = ""
        self.storage: Storage | None = None

    @property
    def built(self) -> bool:
        """Whether ``build`` has given it memory."""
        return self.storage is not None

    def bind(self, storage: Storage, value: Array, compute_value: Array, grad: Any) -> None:
        """Gives it memory. Reads no attribute: a parameter that is being copied or unpickled may
        not have any yet.
        """
        self.storage = storage
        views = {"value": value, "compute_value": compute_value, "grad": grad}
        for name, view in views.items():
            super().__setattr__(name, view)

    def _set_value(self, value: Array) -> None:
        self._copy_in("", self.value, value)
        assert self.storage is not None
        self.storage.refresh()

    def _set_grad(self, grad: Array) -> None:
        if grad is self.grad:  # `p.grad += x` ends with assigning p.grad to itself
            return
        if self.grad is None:
            raise ValueError(f"parameter {self.name} is frozen: it has no gradient")
        self._copy_in("the gradient of ", self.grad, grad)

    def _copy_in(self, what: str, view: Array, array: Array) -> None:
        array = taken(f"{what}parameter {self.name}", array)
        shape = getattr(array, "shape", None)
        if shape is None or tuple(shape) != self.shape:
            got = type(array).__name__ if shape is None else tuple(shape)
            raise ValueError(f"{what}parameter {self.name} must have shape {self.shape}, got {got}")
        require_held(f"{what}parameter {self.name}", array, view.dtype)
        view[...] = backend.to_device_of(array, view)

    @property
    def decay(self) -> bool:
        return self._decay

    @decay.setter
    def decay(self, decay: bool) -> None:
        if decay != self._decay:
            self._decay = decay
            if self.storage is not None:
                self.storage.rearrange()  # an optimizer that was made before raises an error

    @property
    def trainable(self) -> bool:
        return self._trainable

    @trainable.setter
    def trainable(self, trainable: bool) -> None:
        if self.built and trainable != self._trainable:
            raise RuntimeError(
                f"parameter {self.name}: trainable is fixed once the model is built; call freeze() "
                "or unfreeze() on the model"
            )
        self._trainable = trainable

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    # Not properties: layers read the arrays at each pass, and a property takes longer.
    def __setattr__(self, name: str, value: Any) -> None:
        if name == "value":
            return self._set_value(value)
        if name == "grad":
            return self._set_grad(value)
        if name == "compute_value":
            raise AttributeError(f"parameter {self.name}: set its value, not {name}")
        if name in ("shape", "dtype") and getattr(self, "storage", None) is not None:
            raise AttributeError(
                f"parameter {self.name}: its {name} is fixed once the model is built"
            )
        if name in _NAMES:
            raise AttributeError(
                f"Parameter has no attribute {name!r}: it is called {_NAMES[name]}"
            )
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        # Called for an attribute that is not set: the parameter was not built.
        if name in ("value", "grad", "compute_value"):
            raise RuntimeError(
                f"parameter {self.name or f'of shape {self.shape}'} has no values yet: call "
                "build() on the model that it is a part of"
            )
        how = f": it is called {_NAMES[name]}" if name in _NAMES else ""
        raise AttributeError(f"Parameter has no attribute {name!r}{how}")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The values, for numpy's functions."""
        return np.array(backend.to_numpy(self.value), dtype)

    def __repr__(self) -> str:
        state = "" if self.trainable else ", frozen"
        return f"Parameter({self.name or 'unnamed'}, shape={self.shape}{state})"

    # A pickle holds the values, as those that `build` will give it again.
    def __getstate__(self) -> dict[str, Any]:
        state = {name: getattr(self, name) for name in _KEPT}
        if self.built:
            state["init"] = _Pickled(backend.to_numpy(self.value))
        return {**state, "storage": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            super().__setattr__(name, value)

    # The arrays are views of the storage, which is copied as a whole and makes the views again.
    def __deepcopy__(self, memo: dict[int, Any]) -> Parameter:
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        state = {name: getattr(self, name) for name in _KEPT}
        if self.built:
            state["init"] = None  # no longer needed
        made.__setstate__(copy.deepcopy(state, memo))
        return made


class _Pickled:
    """The initialiser of a parameter that was pickled: its values at that time."""

    def __init__(self, values: np.ndarray):
        self.values = values

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return self.values


# PyTorch's names of some attributes.
_NAMES = {"data": "value", "numel": "size", "requires_grad": "trainable"}
_KEPT = ("_decay", "_trainable", "dtype", "init", "name", "shape", "storage")


def require_held(what: str, array: Any, dtype: Any) -> None:
    """ValueError where this dtype would not hold the values of the array: numbers too large for it,
    fractions in integers, text, complex numbers.
    """
    if array.dtype == dtype:
        return
    given = backend.to_numpy(array)
    if given.dtype.kind not in "biuf" and given.dtype.name != "bfloat16":
        raise ValueError(f"{what} is kept in {dtype}, which cannot hold {given.dtype}")
    with np.errstate(invalid="ignore", over="ignore"):
        held = given.astype(dtype)
        if np.issubdtype(dtype, np.integer):
            lost = held != given
        else:
            lost = np.isinf(held) & np.isfinite(given)
    if lost.any():
        raise ValueError(f"{what} is kept in {dtype}, which cannot hold the values given")


def require_finite(what: str, array: Any) -> None:
    """UserError naming the tensor if it has NaN or infinite numbers."""
    host = backend.to_numpy(array)
    if host.dtype.kind in "biu" or np.isfinite(host).all():
        return
    bad = np.argwhere(~np.isfinite(host))
    raise UserError(
        f"{what} is not finite: {len(bad)} of {host.size} numbers are NaN or infinite, the first "
        f"at {tuple(int(i) for i in bad[0])}"
    )


def _checked_shape(kind: str, shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, (tuple, list)) or not all(
        isinstance(n, numbers.Integral) and int(n) >= 0 for n in shape
    ):
        raise ValueError(f"{kind}: shape must be a tuple of integers >= 0, got {shape!r}")
    return tuple(int(n) for n in shape)


def _checked_init(kind: str, init: Any) -> Init:
    if not callable(init):
        raise TypeError(
            f"{kind}: init must be a function of (rng, shape), such as nn.init.zeros or "
            f"nn.init.Constant(0.5), got {init!r}"
        )
    return init


class Buffer:
    """A tensor that belongs to a module and is not trained: running statistics, tables.

    It is saved in the state dict (unless ``persistent`` is False), moved with the model and cast
    with it if it is floating. ``value`` is an array of its own.
    """

    def __init__(self, shape: tuple[int, ...], init: Init, persistent: bool = True):
        self.shape = _checked_shape("Buffer", shape)
        self.init: Init | None = _checked_init("Buffer", init)
        self.persistent = persistent
        self.name = ""
        self.value: Array = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "init": None if self.value is not None else self.init}
