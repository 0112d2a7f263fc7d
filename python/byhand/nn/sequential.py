"""Layers one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from byhand.backend import Array
from byhand.nn.module import Module


class Sequential(Module):
    """Calls each layer on the result of the one before it.

    ``len()``, iteration and an integer index reach the layers; their paths are "0", "1", ...
    """

    def __init__(self, *layers: Module):
        self._names = tuple(map(str, range(len(layers))))
        for i, layer in enumerate(layers):
            self[i] = layer

    def __iter__(self) -> Iterator[Module]:
        parts = vars(self)
        return iter([parts[name] for name in self._names])

    def forward(self, x: Array) -> Array:
        for layer in self:
            x = layer(x)
        return x

    def backward(self, dy: Array) -> Array:
        for layer in reversed([*self]):
            dy = layer.backward(dy)
        return dy

    @property
    def _input_dtype(self) -> Any:
        return self[0]._input_dtype if len(self) else None

    def _input_shape(self, batch: int) -> tuple[int, ...] | None:
        return self[0]._input_shape(batch) if len(self) else None

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Module:
        return vars(self)[self._names[index]]

    def __setitem__(self, index: int, layer: Module) -> None:
        if not isinstance(layer, Module):
            how = ": pass the layers one by one, Sequential(*layers)"
            raise TypeError(
                f"Sequential: layer {index} must be a Module, got {layer!r}"
                f"{how if isinstance(layer, (list, tuple)) else ''}"
            )
        vars(self)[self._names[index]] = layer
