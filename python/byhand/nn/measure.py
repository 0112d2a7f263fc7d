"""Measuring what a model needs, for `Module.summary`.

A forward pass is run, during which every call of a module is recorded. Activations are the arrays
that the modules then keep for the backward pass, each counted once, without the parameters and
without the inputs. Floating-point operations are those of matrix products and of attention, two for
each multiply-add, by the formulas in the layers' ``flops``.
"""

from __future__ import annotations

import inspect
import numbers
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from byhand import backend
from byhand.backend import Array
from byhand.nn import mode, tree
from byhand.nn.parameter import Buffer, Parameter
from byhand.nn.protocol import require_sizes
from byhand.nn.summary import Layer, Summary, weight_bytes


@dataclass
class _Seen:
    """What the calls of one module showed."""

    output_shape: tuple[int, ...] | None = None
    flops: int = 0
    step_flops: int = 0


class _Recorder:
    """The calls of the modules of a model in a forward pass of this thread, and what they keep."""

    def __init__(self, kind: type):
        self._kind = kind
        self._thread = threading.get_ident()
        self._seen: dict[int, _Seen] = {}
        self._kept: dict[int, int] = {}

    def run(self, model: Any, inputs: tuple[Any, ...]) -> None:
        parts = tree.walk(model, "", set(), self._kind)
        modules = [part for _, part in parts if isinstance(part, self._kind)]
        with _undone(model, modules), mode.Modes(modules, True, True):
            for module in modules:
                vars(module)["forward"] = self._wrap(module)
            y = model(*inputs)  # still there when memory is measured, so that no id is used twice
            self._kept = _kept_bytes(model, modules, inputs)
            del y

    def _wrap(self, module: Any) -> Callable[..., Any]:
        forward = module.forward
        signature = inspect.signature(forward)
        seen = self._seen[id(module)] = _Seen()

        def recorded(*args: Any, **kwargs: Any) -> Any:
            y = forward(*args, **kwargs)
            if threading.get_ident() != self._thread:
                return y
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            shapes = [tuple(a.shape) if hasattr(a, "shape") else None for a in given.args]
            ahead, back = module.flops(*shapes)
            first = y[0] if isinstance(y, tuple) and y else y
            seen.output_shape = tuple(first.shape) if hasattr(first, "shape") else None
            seen.flops += ahead
            # What saves nothing now is computed again before its backward pass.
            seen.step_flops += ahead + back + (0 if mode.saving(module) else ahead)
            return y

        return recorded

    def layer(
        self, module: Any, path: str, first: dict[int, str], above: tuple[int, ...] = ()
    ) -> Layer:
        """The module and what is below it. ``first`` has the paths of the modules and parameters
        that came before.
        """
        first[id(module)] = path
        above = (*above, id(module))
        prefix = f"{path}." if path else ""
        parts, shared = [], []
        parameters = trained = 0
        for key, part in tree.public_parts(module, self._kind):
            if isinstance(part, Buffer):
                continue
            if id(part) in first:
                if id(part) not in above:
                    shared.append(first[id(part)])
            elif isinstance(part, Parameter):
                first[id(part)] = prefix + key
                parameters += part.size
                trained += part.size * part.trainable
            else:
                parts.append(self.layer(part, prefix + key, first, above))
        calls = self._seen.get(id(module), _Seen())
        return Layer(
            path,
            type(module).__name__,
            calls.output_shape,
            parameters + sum(part.parameters for part in parts),
            trained + sum(part.trained for part in parts),
            tuple(shared),
            calls.flops + sum(part.flops for part in parts),
            calls.step_flops + sum(part.step_flops for part in parts),
            self._kept.get(id(module), 0) + sum(part.activation_bytes for part in parts),
            tuple(parts),
        )


def summarize(model: Any, kind: type, inputs: tuple[Any, ...], moments: int) -> Summary:
    """``Module.summary``, which documents it; inputs are arrays."""
    require_sizes(f"{type(model).__name__}.summary", moments=moments)
    recorder = _Recorder(kind)
    if inputs:
        recorder.run(model, inputs)
    root = recorder.layer(model, "", {})
    sizes = [0, 0, 0]
    for p in model.parameters():
        itemsize = p.value.dtype.itemsize
        of_p = weight_bytes(p.size, p.size * p.trainable, itemsize, moments)
        sizes = [sum(pair) for pair in zip(sizes, of_p, strict=True)]
        if p.compute_value.dtype != p.value.dtype:  # the copy of bf16 on a GPU
            sizes[0] += p.compute_value.nbytes
    return Summary(
        root,
        tuple(tuple(x.shape) for x in inputs),
        sizes[0] + sum(b.value.nbytes for _, b in model.named_buffers()),
        sizes[1],
        sizes[2],
    )


@contextmanager
def _undone(model: Any, modules: list[Any]) -> Iterator[None]:
    """After the ``with`` block everything that a forward pass changes is as it was before."""
    names = "forward", "_saved"
    own = [{name: vars(m)[name] for name in names if name in vars(m)} for m in modules]
    buffers = [(b, b.value.copy()) for _, b in model.named_buffers() if b.value is not None]
    generator = None if model._storage is None else model.generator
    count = 0 if generator is None else generator.count
    for module in modules:
        vars(module).pop("_saved", None)
    try:
        yield
    finally:
        for module, before in zip(modules, own, strict=True):
            for name in names:
                vars(module).pop(name, None)
            vars(module).update(before)
        for b, value in buffers:
            b.value[...] = value
        if generator is not None:
            generator.count = count


def _kept_bytes(model: Any, modules: list[Any], inputs: tuple[Any, ...]) -> dict[int, int]:
    """{id of a module: bytes of the memory that it alone keeps, or that it keeps as the first}."""
    known = [model.storage.values, model.storage.compute_values] if model._storage else []
    known += [b.value for _, b in model.named_buffers()]
    known += [p.value for p in model.parameters()]
    counted = {id(_owner(a)) for a in [*known, *inputs]}
    kept = {}
    for module in modules:
        kept[id(module)] = 0
        for a in _arrays(vars(module).get("_saved", ())):
            owner = _owner(a)
            if id(owner) not in counted:
                counted.add(id(owner))
                kept[id(module)] += owner.nbytes
    return kept


def _owner(a: Array) -> Array:
    """The array whose memory a view shows: it is kept as a whole."""
    base = getattr(a, "base", None)
    return _owner(base) if type(base) is type(a) else a


def _arrays(saved: Any) -> Iterator[Array]:
    if isinstance(saved, np.ndarray) or backend.is_cupy(saved):
        yield saved
    elif isinstance(saved, (tuple, list)):
        for item in saved:
            yield from _arrays(item)
    elif isinstance(saved, dict):
        for item in saved.values():
            yield from _arrays(item)


def made_inputs(model: Any, inputs: tuple[Any, ...], batch: int | None) -> tuple[Any, ...]:
    """Arrays for `Module.summary`'s arguments; none if the model does not know what it takes."""
    where = f"{type(model).__name__}.summary"
    if batch is not None:
        if inputs:
            raise ValueError(f"{where}: pass the inputs or batch, not both")
        require_sizes(where, batch=batch)
    if not inputs:
        shape = model._input_shape(1 if batch is None else batch)
        if shape is None and batch is not None:
            raise ValueError(
                f"{where}: it does not know the shape of an example: pass the shapes of the "
                f"inputs, summary(({batch}, ...))"
            )
        inputs = () if shape is None else (shape,)
    like = model.storage.compute_values if model._storage else np.empty(0, np.float32)
    return tuple(_input(where, i, x, model._input_dtype, like) for i, x in enumerate(inputs))


def _input(where: str, i: int, x: Any, dtype: Any, like: Array) -> Array:
    if hasattr(x, "shape"):
        return x
    whole = isinstance(x, (tuple, list)) and all(
        isinstance(n, numbers.Integral) and int(n) >= 0 for n in x
    )
    if not whole:
        raise TypeError(f"{where}: input {i} must be an array or a shape, got {x!r}")
    return backend.zeros(tuple(map(int, x)), like, dtype if i == 0 else None)
