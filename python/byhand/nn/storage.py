"""The memory of a model: its parameters in one flat buffer, their gradients in another.

Zeroing, clipping, the optimizer and a checkpoint are then each one pass over memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from byhand import backend
from byhand.backend import Array
from byhand.nn.parameter import Buffer, Parameter
from byhand.nn.random import Generator, named_rng


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
        params, buffers: in the order of the flat buffer.
        generator: the source of dropout masks.
        version: changes whenever arrays are replaced, so that an optimizer can detect it.
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
        self.params = list(params)
        self.buffers = list(buffers)
        self.generator = Generator(seed)
        self.version = 0
        for p in self.params:
            if p.storage is not None and p.storage is not self:
                p.storage.version = -1  # its arrays are no longer the model's
        self._lay_out(np if like is None else backend.xp(like), dtype, half, seed, draw)

    @property
    def valid(self) -> bool:
        """False once the module was built into a larger one, which has a storage of its own."""
        return self.version >= 0

    def move(self, library: Any = None, dtype: Any = None, half: bool = False) -> None:
        """Makes new buffers and copies the parameters into them: for another device or dtype, or
        because some were frozen. None keeps the present device or dtype.
        """
        library = backend.xp(self.values) if library is None else library
        self._lay_out(library, self.values.dtype if dtype is None else dtype, half, 0, False)
        self.version += 1

    def refresh(self) -> None:
        """Copies the values to ``compute_values``, where that is a copy."""
        if self.compute_values is not self.values:
            self.compute_values[...] = self.values

    def _lay_out(self, library: Any, dtype: Any, half: bool, seed: int, draw: bool) -> None:
        self.params.sort(key=lambda p: (not p.trainable, not p.decay))
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
        self.values, self.grads, self._spans, self._apart = values, grads, spans, alone
        self.compute_values = library.empty(values.size, backend.bfloat16()) if half else values
        self._bind()
        self.refresh()
        for b in self.buffers:
            host = b.value
            if host is None:
                assert b.init is not None
                host = b.init(named_rng(seed, b.name), b.shape)
            kind = dtype if np.issubdtype(host.dtype, np.floating) else host.dtype
            value = library.empty(b.shape, kind)
            value[...] = backend.to_device_of(host, value)
            b.value = value

    def _bind(self) -> None:
        """Makes the parameters views of the flat buffers. Reads no attribute of a parameter: during
        copying and unpickling it may not have any yet.
        """
        half = self.compute_values is not self.values
        for p, start, stop, shape, trainable in self._spans:
            p._value = p.compute_value = self.values[start:stop].reshape(shape)
            if half:
                p.compute_value = self.compute_values[start:stop].reshape(shape)
            p.grad = self.grads[start:stop].reshape(shape) if trainable else None
            p.storage = self
        for p, array in self._apart:
            p._value = p.compute_value = array
            p.grad, p.storage = None, self

    # A copy or pickle contains the flat buffers once, and makes its parameters views of them again.
    def __getstate__(self) -> dict[str, Any]:
        half = self.compute_values is not self.values
        return {**vars(self), "compute_values": self.compute_values if half else None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self.compute_values is None:
            self.compute_values = self.values
        self._bind()


def _fill(view: Array, p: Parameter, seed: int, draw: bool) -> None:
    """Writes the values of p to ``view``; if it has none yet and ``draw`` is True, initial ones."""
    if p.built:
        view[...] = backend.to_device_of(p.value, view)
    elif draw:
        assert p.init is not None
        first = np.asarray(p.init(named_rng(seed, p.name), p.shape))
        if first.shape != p.shape:
            raise ValueError(
                f"the initialiser of {p.name} must give shape {p.shape}, got {first.shape}"
            )
        view[...] = backend.to_device_of(first.astype(view.dtype, copy=False), view)
