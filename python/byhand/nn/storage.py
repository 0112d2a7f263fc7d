"""The memory of a model: its parameters in one flat buffer, their gradients in another.

Zeroing, clipping, the optimizer and a checkpoint are then each one pass over memory.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from byhand import backend
from byhand.backend import Array
from byhand.nn.parameter import Buffer, Parameter
from byhand.nn.random import Generator, named_rng

_DTYPES = {"float32": np.float32, "float64": np.float64}


class Storage:
    """The values and gradients of all parameters of one root module.

    The order is: parameters that decay, other trainable ones, frozen ones; inside each in the order
    of the module tree. ``grads`` ends where the frozen parameters begin.

    Attributes:
        values: 1-D, all parameters of the model's dtype.
        grads: 1-D, the gradients of the trainable ones, which are ``values[: grads.size]``.
        decaying: how many elements decay; they come first.
        compute_values: what forward passes read: ``values`` itself or, with ``half``, a bfloat16
            copy. The optimizer writes both; any other code that changes values must call
            ``refresh``.
        params: in the order of the flat buffer.
        buffers: in the order of the module tree.
        generator: the source of dropout masks.
        version: changes whenever arrays are replaced, so that an optimizer can detect it.
        changes: counts how often the optimizer or ``refresh`` has changed values, so that copies of
            them can be made again.
    """

    def __init__(
        self,
        params: Sequence[Parameter],
        buffers: Sequence[Buffer],
        seed: int,
        dtype: Any,
        draw: bool,
        half: bool,
        like: Array | None = None,
    ):
        self._in_tree_order = list(params)
        self.buffers = list(buffers)
        self.generator = Generator(seed)
        self.version = 0
        self.changes = 0
        former = [p.storage for p in params if p.storage is not None]
        self._lay_out(np if like is None else backend.xp(like), dtype, half, seed, draw)
        for storage in former:
            storage.version = -1  # its arrays are no longer the model's

    @property
    def valid(self) -> bool:
        """False once the module was built into a larger one, which has a storage of its own."""
        return self.version >= 0

    @property
    def dtype(self) -> str:
        """The dtype of the parameters, "float32" or "float64"."""
        return self.values.dtype.name

    def move(self, library: Any = None, dtype: Any = None, half: bool = False) -> None:
        """Makes new buffers and copies the parameters into them: for another device or dtype, or
        because some were frozen. None keeps the present device or dtype.
        """
        library = backend.xp(self.values) if library is None else library
        self._lay_out(library, self.values.dtype if dtype is None else dtype, half, 0, False)
        self.version += 1

    def rearrange(self) -> None:
        """`move` to the same device and dtype, after a change of what is trained or decays."""
        self.move(half=self.compute_values is not self.values)

    def refresh(self) -> None:
        """Must be called after values were changed: copies them to ``compute_values``, where
        that is a copy.
        """
        self.changes += 1
        if self.compute_values is not self.values:
            self.compute_values[...] = self.values

    def _lay_out(self, library: Any, dtype: Any, half: bool, seed: int, draw: bool) -> None:
        # From the order of the tree, so that freezing and unfreezing leaves no trace in the order.
        self.params = sorted(self._in_tree_order, key=lambda p: (not p.trainable, not p.decay))
        dtype = np.dtype(dtype)
        apart = [p for p in self.params if p.dtype is not None and dtype == np.float32]
        flat = [p for p in self.params if p not in apart]
        self.decaying = sum(p.size for p in flat if p.trainable and p.decay)
        values = library.empty(sum(p.size for p in flat), dtype)
        grads = library.zeros(sum(p.size for p in flat if p.trainable), dtype)
        spans, start = [], 0
        for p in flat:
            stop = start + p.size
            view = values[start:stop].reshape(p.shape)
            _fill(view, p, seed, draw)
            if p.trainable and p.built and p.grad is not None:
                slope = grads[start:stop].reshape(p.shape)
                slope[...] = backend.to_device_of(p.grad, slope)
            spans.append((p, start, stop, p.shape, p.trainable))
            start = stop
        alone = [(p, library.empty(p.shape, p.dtype)) for p in apart]
        for p, array in alone:
            _fill(array, p, seed, draw)
        buffers = [_buffer_value(b, library, dtype, seed) for b in self.buffers]
        compute_values = library.empty(values.size, backend.bfloat16()) if half else values
        # Only now, when nothing can fail any more, does the model change.
        self.values, self.grads, self._spans, self._apart = values, grads, spans, alone
        self.compute_values = compute_values
        self._bind()
        self.refresh()
        for b, value in zip(self.buffers, buffers, strict=True):
            b.value = value

    def _bind(self) -> None:
        """Makes the parameters views of the flat buffers."""
        half = self.compute_values is not self.values
        for p, start, stop, shape, trainable in self._spans:
            value = compute_value = self.values[start:stop].reshape(shape)
            if half:
                compute_value = self.compute_values[start:stop].reshape(shape)
            grad = self.grads[start:stop].reshape(shape) if trainable else None
            p.bind(self, value, compute_value, grad)
        for p, array in self._apart:
            p.bind(self, array, array, None)

    def rebind_like(self, original: Storage) -> None:
        """Takes its parameters back from a model that was made of some of them; this is a copy of
        ``original``.
        """
        self.version = original.version
        for mine, theirs in zip(self.params, original.params, strict=True):
            mine.name = theirs.name
        for b, of in zip(self.buffers, original.buffers, strict=True):
            b.name = of.name
        self._bind()

    # A copy contains the flat buffers once, and makes its parameters views of them again.
    def __deepcopy__(self, memo: dict[int, Any]) -> Storage:
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        half = self.compute_values is not self.values
        state = {**vars(self), "compute_values": self.compute_values if half else None}
        vars(made).update(copy.deepcopy(state, memo))
        if made.compute_values is None:
            made.compute_values = made.values
        made._bind()
        return made

    # A pickle contains the gradients; the values are in the parameters, of which a part of the
    # model may have been pickled alone. `restore` makes the flat buffers again.
    def __getstate__(self) -> dict[str, Any]:
        state = {"version": self.version, "changes": 0, "generator": self.generator}
        if not self.valid:
            return state
        return state | {
            "_in_tree_order": self._in_tree_order,
            "buffers": self.buffers,
            "_pickled": (
                "cuda" if backend.is_cupy(self.values) else "cpu",
                self.dtype,
                self.compute_values is not self.values,
                backend.to_numpy(self.grads),
            ),
        }

    def restore(self) -> None:
        """Makes the buffers of a storage that was pickled, once its parameters are there."""
        pickled = vars(self).pop("_pickled", None)
        if pickled is None:
            return
        device, dtype, half, grads = pickled
        for p in self._in_tree_order:
            if p.storage is not None:  # of a part that was complete first
                p.storage.version = -1
        self._lay_out(library_of(device), dtype, half, 0, True)
        backend.copy_to(self.grads, grads)


def _fill(view: Array, p: Parameter, seed: int, draw: bool) -> None:
    """Writes the values of p to ``view``; if it has none yet and ``draw`` is True, initial ones."""
    if p.built:
        view[...] = backend.to_device_of(p.value, view)
    elif draw:
        first = _first(p, seed)
        view[...] = backend.to_device_of(first.astype(view.dtype, copy=False), view)


def _first(a: Parameter | Buffer, seed: int) -> np.ndarray:
    assert a.init is not None
    first = np.asarray(a.init(named_rng(seed, a.name), a.shape))
    if first.shape != a.shape:
        raise ValueError(
            f"the initialiser of {a.name} must give shape {a.shape}, got {first.shape}"
        )
    return first


def _buffer_value(b: Buffer, library: Any, dtype: Any, seed: int) -> Array:
    """The value that b has, or its first one, in an array of ``library``; ``dtype`` if floating."""
    value = _first(b, seed) if b.value is None else b.value
    if tuple(value.shape) != b.shape:
        raise ValueError(f"buffer {b.name} must have shape {b.shape}, got {tuple(value.shape)}")
    made = library.empty(b.shape, dtype if np.issubdtype(value.dtype, np.floating) else value.dtype)
    made[...] = backend.to_device_of(value, made)
    return made


def library_of(device: str | None) -> Any:
    """numpy for "cpu", cupy for "cuda", None for None."""
    if device is None:
        return None
    if device == "cpu":
        return np
    if device == "cuda":
        backend.cuda()
        import cupy

        return cupy
    raise ValueError(
        f"device must be 'cpu' or 'cuda', got {device!r} (a dtype is given as dtype='float64')"
    )


def parameter_dtype(dtype: Any) -> Any:
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    if name not in _DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, got {name}")
    return _DTYPES[name]
