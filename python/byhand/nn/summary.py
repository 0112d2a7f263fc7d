"""What a model consists of and what a training step of it needs, as `Module.summary` returns it."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator
from dataclasses import dataclass

from byhand.nn import show

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
    parameter_bytes: int
    gradient_bytes: int
    moment_bytes: int

    @property
    def parameters(self) -> int:
        return self.model.parameters

    @property
    def trained(self) -> int:
        return self.model.trained

    @property
    def flops(self) -> int:
        return self.model.flops

    @property
    def step_flops(self) -> int:
        return self.model.step_flops

    @property
    def activation_bytes(self) -> int:
        return self.model.activation_bytes

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
