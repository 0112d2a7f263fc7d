"""What a model consists of and what a training step of it needs: `Module.summary`.

A forward pass is run, during which every call of a module is recorded. Activations are the arrays
that the modules then keep for the backward pass, each counted once, without the parameters and
without the inputs. Floating-point operations are those of matrix products and of attention, two for
each multiply-add, by the formulas in the layers' ``flops``.
"""

from __future__ import annotations

import html
import inspect
import math
import numbers
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from byhand import backend
from byhand.backend import Array
from byhand.nn import mode, show, tree
from byhand.nn.parameter import Buffer, Parameter
from byhand.nn.protocol import require_sizes

COUNTED = "two for each multiply-add of matrix products and attention"


def weight_bytes(
    parameters: int, trained: int, itemsize: int = 4, moments: int = 2
) -> tuple[int, int, int]:
    """The bytes of parameters, of which some are trained, of their gradients and of an optimizer's
    moments: so many buffers of the size of the gradients, AdamW's two by default.
    """
    return parameters * itemsize, trained * itemsize, moments * trained * itemsize


@dataclass(frozen=True)
class Layer:
    """A module, together with all modules below it.

    Attributes:
        path: in the model; "" for the model itself.
        kind: the name of its type.
        output_shape: of the array that its last call returned; None if it was not called. Its
            parent may compute it together with other layers; its operations are the parent's then.
        parameters: how many numbers its parameters have, without those under an earlier path.
        trained: how many of them are trained.
        shared: earlier paths of parameters that it shares.
        flops: floating-point operations of a forward pass.
        step_flops: of the forward and the backward pass together.
        activation_bytes: what it keeps for the backward pass.
        parts: the modules in it.
    """

    path: str
    kind: str
    output_shape: tuple[int, ...] | None
    parameters: int
    trained: int
    shared: tuple[str, ...]
    flops: int
    step_flops: int
    activation_bytes: int
    parts: tuple[Layer, ...]


@dataclass(frozen=True)
class Summary:
    """A table when it is printed or shown by a notebook, and the totals of a training step.

    Attributes:
        model: the model, and in its ``parts`` what is in it.
        input_shapes: of the forward pass; empty if none was run. Then ``flops``, ``step_flops`` and
            ``activation_bytes`` are 0.
        parameters, trained: how many numbers the parameters have, and how many of them are trained.
        flops, step_flops: floating-point operations of a forward pass, and of a training step.
        parameter_bytes, gradient_bytes, moment_bytes: of the parameters (with buffers), their
            gradients and the optimizer's moments.
        activation_bytes: of the arrays kept for the backward pass. A model that recomputes blocks
            keeps those of one block at a time in addition.
    """

    model: Layer
    input_shapes: tuple[tuple[int, ...], ...]
    parameters: int
    trained: int
    flops: int
    step_flops: int
    parameter_bytes: int
    gradient_bytes: int
    moment_bytes: int
    activation_bytes: int

    @property
    def layers(self) -> list[Layer]:
        """Every module, in the order of the tree; the first one is the model."""
        return list(_walk(self.model))

    @property
    def step_bytes(self) -> int:
        """What a training step keeps in memory between its forward and its backward pass."""
        return (
            self.parameter_bytes + self.gradient_bytes + self.moment_bytes + self.activation_bytes
        )

    def __str__(self) -> str:
        heads, rows = self._table()
        widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
        lines = [
            "  ".join(
                cell.ljust(width) if i in (0, len(heads) - 1) else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in [heads, *rows]
        ]
        return "\n".join([*lines, *self._totals()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        heads, rows = self._table()
        right = 'style="text-align: right"'
        left = 'style="text-align: left; white-space: pre"'

        def line(tag: str, cells: list[str]) -> str:
            sides = [left, *[right] * (len(cells) - 2), left]
            pairs = zip(cells, sides, strict=True)
            return f"<tr>{''.join(f'<{tag} {s}>{html.escape(c)}</{tag}>' for c, s in pairs)}</tr>"

        body = "".join(line("td", row) for row in rows)
        totals = "<br>".join(map(html.escape, self._totals()))
        return f"<table><thead>{line('th', heads)}</thead><tbody>{body}</tbody></table>{totals}"

    def _table(self) -> tuple[list[str], list[list[str]]]:
        """The heads of the columns, and the rows; equal neighbours are one row."""
        heads = ["layer", "output shape", "parameters", "FLOPs", "step FLOPs", "activations", ""]
        rows = [[label, *cells] for label, cells in _rows(self.model)]
        if not self.input_shapes:
            heads, *rows = [[row[0], row[2], row[6]] for row in [heads, *rows]]
        return heads, rows

    def _totals(self) -> list[str]:
        trained = "" if self.trained == self.parameters else f", {self.trained:,} of them trained"
        lines = [f"{self.parameters:,} parameters{trained}"]
        weights = (
            f"parameters {in_units(self.parameter_bytes, 'B')}, "
            f"gradients {in_units(self.gradient_bytes, 'B')}, "
            f"optimizer {in_units(self.moment_bytes, 'B')}"
        )
        if not self.input_shapes:
            return [*lines, f"memory to train: {weights}, and the activations of a batch"]
        shapes = " and ".join(map(str, self.input_shapes))
        return [
            *lines,
            f"for an input of shape {shapes}:",
            f"floating-point operations ({COUNTED}): forward {in_units(self.flops)}, "
            f"training step {in_units(self.step_flops)}",
            f"memory of a training step: {in_units(self.step_bytes, 'B')}: {weights}, activations "
            f"{in_units(self.activation_bytes, 'B')}",
        ]


def _walk(layer: Layer) -> Iterator[Layer]:
    yield layer
    for part in layer.parts:
        yield from _walk(part)


def in_units(number: int, unit: str = "") -> str:
    """Three digits and a decimal prefix: "1.23 M", "45.6 MB"."""
    for power, prefix in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            value = number / 10**power
            digits = max(0, 2 - int(math.log10(value)))
            return f"{value:,.{digits}f} {prefix}{unit}"
    return f"{number}{f' {unit}' if unit else ''}"


def _rows(layer: Layer) -> list[tuple[str, list[str]]]:
    notes = [f"shares {path}" for path in layer.shared]
    if layer.trained < layer.parameters:
        notes.insert(0, "partly frozen" if layer.trained else "frozen")
    cells = [
        str(layer.output_shape or "-"),
        f"{layer.parameters:,}" if layer.parameters else "-",
        in_units(layer.flops) if layer.flops else "-",
        in_units(layer.step_flops) if layer.step_flops else "-",
        in_units(layer.activation_bytes, "B") if layer.activation_bytes else "-",
        ", ".join(notes),
    ]
    rows = [(layer.kind, cells)]
    prefix = f"{layer.path}." if layer.path else ""
    below = ((part.path.removeprefix(prefix), _rows(part)) for part in layer.parts)
    for keys, shown in show.grouped(below):
        rows.append((f"  {keys}: {shown[0][0]}", shown[0][1]))
        rows += [(f"  {label}", cells) for label, cells in shown[1:]]
    return rows


# --- Measuring ---------------------------------------------------------------------------------


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
        root.parameters,
        root.trained,
        root.flops,
        root.step_flops,
        sizes[0] + sum(b.value.nbytes for _, b in model.named_buffers()),
        sizes[1],
        sizes[2],
        root.activation_bytes,
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
