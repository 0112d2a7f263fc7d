"""Parameters, modules and the two flat buffers a model lives in.

A module's ``forward`` pushes what its ``backward`` needs onto a stack, and ``backward`` pops it:
last in, first out, so that a backward pass is the forward pass read from the bottom up. Gradients
of activations are returned (written); gradients of parameters are added to ``Param.grad``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from byhand import backend
from byhand.backend import Array
from byhand.ops.philox import Offset

_DTYPES = {"float32": np.float32, "float64": np.float64}


class Param:
    """A named view of a model's flat value buffer and of its flat gradient buffer.

    Attributes:
        value: the parameter, any shape.
        operand: what forward passes read: ``value`` itself or, in bf16 precision on a GPU, a
            bfloat16 copy of it in another flat buffer.
        grad: the gradient accumulated so far, same shape.
        decays: whether weight decay applies; by default to matrices only (Radford et al., 2019,
            as nanoGPT and llm.c do it).
    """

    __slots__ = ("decays", "grad", "name", "operand", "value")

    def __init__(self, value: Array, decays: bool | None = None):
        self.name = ""
        self.value = self.operand = value
        self.grad = np.zeros_like(value)
        self.decays = value.ndim >= 2 if decays is None else decays

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def size(self) -> int:
        return self.value.size

    def __repr__(self) -> str:
        return f"Param({self.name or 'unnamed'}, shape={self.shape}, dtype={self.value.dtype})"


class Arena:
    """All parameters of a model in one buffer, all gradients in another.

    Decayed parameters come first, so that zeroing, clipping, AdamW and a checkpoint are each one
    pass over memory. ``values`` and ``grads`` are 1-D; the first ``decayed`` elements decay.

    ``operands`` is ``values`` itself or, where ``half`` is asked for, a bfloat16 copy: AdamW writes
    both, and who else changes values calls ``refresh``.
    """

    def __init__(self, params: list[Param], like: Array, dtype: Any = None, half: bool = False):
        ordered = [p for p in params if p.decays] + [p for p in params if not p.decays]
        self.params = ordered
        self.decayed = sum(p.size for p in ordered if p.decays)
        size = sum(p.size for p in ordered)
        library = backend.xp(like)
        self.values = library.empty(size, dtype or like.dtype)
        self.grads = library.zeros(size, dtype or like.dtype)
        self.operands = library.empty(size, backend.bfloat16()) if half else self.values
        start = 0
        for p in ordered:
            stop = start + p.size
            for field, buffer in (("value", self.values), ("grad", self.grads)):
                view = buffer[start:stop].reshape(p.shape)
                view[...] = backend.to_device_of(getattr(p, field), view)
                setattr(p, field, view)
            p.operand = self.operands[start:stop].reshape(p.shape) if half else p.value
            start = stop
        self.refresh()

    def refresh(self) -> None:
        """Makes the operands anew from the values."""
        if self.operands is not self.values:
            self.operands[...] = self.values


class Module:
    """The base of every layer and model. Subclasses write ``forward`` and ``backward``."""

    training: bool = True
    _arena: Arena | None = None
    _saving: bool = True
    _bf16: bool = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def backward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    # --- what forward saves for backward -------------------------------------------------------

    def push(self, saved: Any) -> None:
        """Keeps ``saved`` for the matching ``backward``; nothing while saving is off."""
        if self._saving:
            self.__dict__.setdefault("_saved", []).append(saved)

    def peek(self) -> Any:
        """What the next ``pop`` will give."""
        stack = self.__dict__.get("_saved")
        if not stack:
            raise RuntimeError(
                f"{type(self).__name__}.backward was called without a forward pass before it"
                + ("" if self._saving else " (eval() and no_save() keep nothing for it)")
            )
        return stack[-1]

    def pop(self) -> Any:
        saved = self.peek()
        self.__dict__["_saved"].pop()
        return saved

    def discard_saved(self) -> None:
        """Forgets every forward pass that had no backward pass."""
        for _, module in self.named_modules():
            module.__dict__.pop("_saved", None)

    @contextmanager
    def no_save(self) -> Iterator[None]:
        """Inside the ``with`` block forward passes save nothing, so no backward can follow."""
        before = [(module, module._saving) for _, module in self.named_modules()]
        for module, _ in before:
            module._saving = False
        try:
            yield
        finally:
            for module, saving in before:
                module._saving = saving

    def train(self) -> Module:
        """Training mode: dropout acts, and forward passes save what backward needs."""
        return self._set_mode(True)

    def eval(self) -> Module:
        """Evaluation mode: no dropout, and nothing is saved."""
        return self._set_mode(False)

    def _set_mode(self, training: bool) -> Module:
        for _, module in self.named_modules():
            module.training = module._saving = training
        return self

    @property
    def precision(self) -> str:
        """What the products of linear layers are computed in: "float32", or "bf16", where their
        factors are rounded to bfloat16 and summed in float32. Parameters, activations, gradients
        and everything else are float32 either way (Micikevicius et al., 2018, section 3). On a GPU
        bf16 is also how activations are stored, and a copy of the parameters that forward passes
        read; parameters and their gradients are float32 there too.

        Setting it sets it for every module below; ValueError for another word.
        """
        return "bf16" if self._bf16 else "float32"

    @precision.setter
    def precision(self, precision: str) -> None:
        if precision not in backend.PRECISIONS:
            raise ValueError(
                f"precision must be one of {', '.join(backend.PRECISIONS)}, got {precision!r}"
            )
        for _, module in self.named_modules():
            module._bf16 = precision == "bf16"
        if self._arena is not None and backend.is_cupy(self._arena.values):
            self._flatten()

    # --- the tree ------------------------------------------------------------------------------

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module and all below it, by attribute name; each once."""
        yield prefix, self
        for name, child in _children(self):
            if isinstance(child, Module):
                yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def named_parameters(self) -> Iterator[tuple[str, Param]]:
        """(name, parameter), each parameter once: a tied one under its first name."""
        seen: set[int] = set()
        for prefix, module in self.named_modules():
            for name, child in _children(module):
                if isinstance(child, Param) and id(child) not in seen:
                    seen.add(id(child))
                    yield (f"{prefix}.{name}" if prefix else name), child

    def parameters(self) -> list[Param]:
        return [p for _, p in self.named_parameters()]

    def num_parameters(self) -> int:
        """How many numbers are trained; a tied matrix counts once."""
        return sum(p.size for p in self.parameters())

    # --- the flat buffers ----------------------------------------------------------------------

    @property
    def arena(self) -> Arena:
        """The flat buffers; laid out on first use, and by ``to``."""
        if self._arena is None:
            self._flatten()
        assert self._arena is not None
        return self._arena

    def _flatten(self, library: Any = None, dtype: Any = None) -> None:
        params = []
        for name, p in self.named_parameters():
            p.name = name
            params.append(p)
        like = params[0].value if params else np.empty(0, np.float32)
        if library is not None:
            like = library.empty(0, like.dtype)
        half = self._bf16 and backend.is_cupy(like) and like.dtype == np.float32
        self._arena = Arena(params, like, dtype, half)

    def zero_grad(self) -> None:
        """Sets every gradient to zero.

        Raises RuntimeError when a forward pass still waits for its backward pass.
        """
        for name, module in self.named_modules():
            if waiting := len(module.__dict__.get("_saved", ())):
                raise RuntimeError(
                    f"{waiting} forward pass(es) of {name or type(self).__name__} had no backward "
                    "pass; call backward(), or run them under eval() or no_save(), or drop them "
                    "with discard_saved()"
                )
        self.arena.grads[...] = 0

    def state_dict(self) -> dict[str, Array]:
        """Name -> parameter value. The arrays are views: copy them to keep them."""
        return {name: p.value for name, p in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copies values in, cast to this model's dtype.

        Raises ValueError naming what is missing, unknown or of another shape; then nothing was
        changed.
        """
        own = dict(self.named_parameters())
        if missing := [name for name in own if name not in state]:
            raise ValueError(f"load_state_dict: missing parameters: {_some(missing)}")
        if unknown := [name for name in state if name not in own]:
            raise ValueError(f"load_state_dict: unknown parameters: {_some(unknown)}")
        for name, p in own.items():
            if tuple(state[name].shape) != p.shape:
                raise ValueError(
                    f"load_state_dict: {name} must have shape {p.shape}, "
                    f"got {tuple(state[name].shape)}"
                )
        for name, p in own.items():
            p.value[...] = backend.to_device_of(state[name], p.value)
        self.arena.refresh()

    def to(self, device: str | None = None, dtype: Any = None) -> Module:
        """Moves the parameters to ``device`` ("cpu", "cuda") and casts them to ``dtype``
        ("float32", or "float64": check mode on the numpy reference).

        Raises ValueError for an unknown device or dtype and CudaUnavailable with the reason when
        there is no CUDA.
        """
        library = None
        if device == "cpu":
            library = np
        elif device == "cuda":
            backend.cuda()
            import cupy

            library = cupy
        elif device is not None:
            raise ValueError(f"device must be 'cpu' or 'cuda', got {device!r}")
        self._flatten(library, None if dtype is None else _parameter_dtype(dtype))
        return self


def _parameter_dtype(dtype: Any) -> Any:
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    if name not in _DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, got {name}")
    return _DTYPES[name]


def _children(module: Module) -> Iterator[tuple[str, Module | Param]]:
    for name, value in vars(module).items():
        if isinstance(value, (Module, Param)):
            yield name, value
        elif isinstance(value, list) and not name.startswith("_"):
            for i, item in enumerate(value):
                if isinstance(item, (Module, Param)):
                    yield f"{name}.{i}", item


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


class Generator:
    """The source of dropout's randomness: counter-based, so a mask is redrawn, never stored.

    Each draw gets its own offset; ``(seed, offset)`` names a mask for good. Inside
    ``counted_from(start)`` an offset is a distance and ``start``, a 0-d int64 array on the device,
    which holds the count that the distance is counted from: a CUDA graph of what is done there
    draws other masks when ``start`` is another number.
    """

    def __init__(self, seed: int = 0):
        self.seed = int(seed) % 2**64
        self.count = 0
        self._start: tuple[int, Array] | None = None

    def next(self) -> tuple[int, Offset]:
        """The (seed, offset) of the next mask."""
        self.count += 1
        if self._start is None:
            return self.seed, self.count - 1
        before, start = self._start
        return self.seed, (self.count - 1 - before, start)

    @contextmanager
    def counted_from(self, start: Array) -> Iterator[None]:
        """Sends the count to ``start``, and counts from there inside the ``with`` block."""
        backend.copy_to(start, np.array(self.count, np.int64))
        self._start = self.count, start
        try:
            yield
        finally:
            self._start = None

    @contextmanager
    def again_from(self, count: int) -> Iterator[None]:
        """Inside the ``with`` block the masks from this count on are drawn once more."""
        before, self.count = self.count, count
        try:
            yield
        finally:
            self.count = before

    def state(self) -> dict[str, int]:
        return {"seed": self.seed, "count": self.count}

    def load_state(self, state: Mapping[str, int]) -> None:
        self.seed, self.count = int(state["seed"]), int(state["count"])


def normal(rng: np.random.Generator, shape: tuple[int, ...], std: float) -> np.ndarray:
    """Float32 values drawn from a normal distribution around zero."""
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(std)


def scaled_std(fan_in: int) -> float:
    """1/sqrt(fan_in): keeps the variance of activations through a linear layer."""
    return 1.0 / math.sqrt(max(fan_in, 1))
