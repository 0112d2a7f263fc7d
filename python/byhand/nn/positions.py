"""Positions: rotary, sinusoidal and learned ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from byhand import backend
from byhand.backend import Array
from byhand.nn import init, rope_scaling
from byhand.nn.init import Init
from byhand.nn.module import Module
from byhand.nn.parameter import Parameter
from byhand.nn.protocol import (
    contiguous,
    own_copy,
    require_like,
    require_sizes,
    require_whole_number,
)
from byhand.ops import check, embedding, rope

Tables = tuple[Array, Array]


class RotaryPositions(Module):
    """Rotates queries and keys by angles that grow with their positions, so that their product
    depends on the distance of the two (Su et al., 2021, "RoFormer").

    Shapes: x, y (B, T, H, head_dim), which may be strided views whose last axis is contiguous.
    `MultiHeadAttention` takes it as ``positions``; one instance may serve all layers of a model.
    It has no parameters; the tables of cosines and sines are computed in float64.

    Args:
        base: pair i of a head turns by base^(-2 i / rotary_dim) per position.
        scaling: how angles are changed for contexts longer than those trained with, as a dict with
            Hugging Face's fields: rope_type "linear", "dynamic" (NTK), "llama3" or "yarn", factor,
            and what else the rule needs; see `rope_scaling.frequencies`. With "dynamic" a sequence
            longer than ``context`` has other angles at every length, so that keys in a cache keep
            the angles of the length at which they were written.
        rotary_dim: how many of the head's elements are rotated, the first ones; None: all, or with
            ``partial_rotary_factor`` this part of them.
        interleaved: pairs are (2 i, 2 i + 1), as in GPT-J, and not (i, i + rotary_dim / 2), as in
            Llama.
        context: the number of positions that the model was trained with. The tables are made for
            so many at once; they grow where more are asked for.

    Call options: ``start``, the position of the first vector, or ``positions`` (B, T) int64, for
    packed or padded rows (on a GPU they must be less than ``context``); ``out``, the array to write
    into, which may be x.

    ValueError for an odd rotary_dim, one larger than head_dim, and for a wrong field of scaling.
    """

    def __init__(
        self,
        head_dim: int,
        base: float = 10000.0,
        scaling: dict[str, Any] | None = None,
        *,
        rotary_dim: int | None = None,
        partial_rotary_factor: float | None = None,
        interleaved: bool = False,
        context: int | None = None,
    ):
        name = "RotaryPositions"
        require_sizes(name, head_dim=head_dim)
        if rotary_dim is None:
            rotary_dim, what = head_dim, "head_dim"
            if partial_rotary_factor is not None:
                check.in_0_to_1(name, "partial_rotary_factor", partial_rotary_factor)
                rotary_dim = int(head_dim * partial_rotary_factor)
                what = "head_dim * partial_rotary_factor"
        else:
            what = "rotary_dim"
            require_sizes(name, rotary_dim=rotary_dim)
            if partial_rotary_factor is not None:
                raise ValueError(f"{name}: give rotary_dim or partial_rotary_factor, not both")
        if rotary_dim > head_dim:
            raise ValueError(
                f"{name}: rotary_dim must be at most head_dim, got {rotary_dim} and {head_dim}"
            )
        if rotary_dim % 2:
            raise ValueError(f"{name}: {what} must be even, got {rotary_dim}")
        check.number(name, "base", base, lambda x: 1 < x < np.inf, "a number greater than 1")
        if context is not None and require_whole_number(name, "context", context) < 1:
            raise check.wrong_value(name, "context", "at least 1", context)
        self.head_dim = head_dim
        self.rotary_dim = rotary_dim
        self.base = float(base)
        self.scaling = rope_scaling.checked(name, scaling, rotary_dim, context)
        self.interleaved = interleaved
        self.context = context
        # All that were made, the largest last: a captured CUDA graph reads what it was made with.
        self._tables: dict[Any, list[Tables]] = {}
        self._long: tuple[Any, Tables] | None = None

    def forward(
        self,
        x: Array,
        positions: Array | None = None,
        start: int = 0,
        out: Array | None = None,
    ) -> Array:
        if not backend.is_array(x):
            raise check.not_an_array("RotaryPositions", "x", x)
        if x.ndim != 4 or x.shape[3] != self.head_dim:
            raise check.wrong_shape("RotaryPositions", "x", f"(B, T, H, {self.head_dim})", x)
        if positions is None:
            if require_whole_number("RotaryPositions", "start", start) < 0:
                raise check.wrong_value("RotaryPositions", "start", "at least 0", start)
            cos, sin, start = self._tables_for(start, start + x.shape[1], x)
        else:
            cos, sin, start = self._tables_for(0, self._length(positions), x)
            positions = backend.to_device_of(contiguous(positions), x)
            if self._saving:
                positions = own_copy(positions)
        y, saved = rope.forward(x, cos, sin, positions, start, self.interleaved, out)
        self.push(saved)
        return y

    def backward(self, dy: Array, out: Array | None = None) -> Array:
        """dy (B, T, H, head_dim) -> dx, written into ``out``, which may be dy, or a new array."""
        return rope.backward(dy, self.pop(), out)

    def tables(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and sines (length, rotary_dim / 2) of the positions from 0 on, in float64."""
        return self._angles(0, length)

    def _angles(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        per_position, factor = rope_scaling.frequencies(
            self.rotary_dim, self.base, self.scaling, self.context, stop
        )
        angles = np.arange(start, stop)[:, None] * per_position
        return np.cos(angles) * factor, np.sin(angles) * factor

    def _length(self, positions: Array) -> int:
        """A number that exceeds every position."""
        check.arrays("RotaryPositions", positions=positions)
        if isinstance(positions, np.ndarray):
            return int(positions.max(initial=0)) + 1
        if self.context is None:
            raise ValueError("RotaryPositions: positions on a GPU need a layer with a context")
        return self.context

    def _tables_for(self, start: int, stop: int, like: Array) -> tuple[Array, Array, int]:
        """Tables that hold the positions [start, stop), in the precision of ``like`` and on its
        device, and the row of the first of them.
        """
        single = like.dtype != np.float64
        key = single, str(getattr(like, "device", "cpu"))
        limit = None
        if self.scaling is not None and self.scaling["rope_type"] == "dynamic":
            limit = self.context
        if limit is not None and stop > limit:
            # Of this length only: the frequencies of another length are others.
            if start > 0:  # in decoding the next call has another length
                if self._long is None or self._long[0] != (key, start, stop):
                    self._long = (key, start, stop), self._stored(start, stop, single, like)
                return *self._long[1], 0
            made = self._tables.setdefault((key, stop), [])
            if not made:
                made.append(self._stored(0, stop, single, like))
            return *made[0], 0
        made = self._tables.setdefault(key, [])
        have = len(made[-1][0]) if made else 0
        if have < stop or not made:
            length = max(stop, self.context or 0, 2 * have)
            length = length if limit is None else min(length, limit)
            made.append(self._stored(0, length, single, like))
        return *made[-1], start

    def _stored(self, start: int, stop: int, single: bool, like: Array) -> Tables:
        cos, sin = (
            backend.to_device_of(a.astype(np.float32 if single else np.float64), like)
            for a in self._angles(start, stop)
        )
        return cos, sin

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_tables": {}, "_long": None}


def sinusoids(length: int, dim: int, base: float = 10000.0, start: int = 0) -> np.ndarray:
    """The table (length, dim) of sinusoidal positions from ``start`` on, in float64.

    Column 2 i is sin(position / base^(2 i / dim)), column 2 i + 1 the cosine (Vaswani et al., 2017,
    section 3.5); an odd dim ends with a sine.
    """
    columns = np.arange(dim)
    angles = np.arange(start, start + length)[:, None] / base ** ((columns - columns % 2) / dim)
    return np.where(columns % 2, np.cos(angles), np.sin(angles))


class _AddedPositions(Module):
    """y = x + a row of a table for each position. Shapes: x, y (B, T, dim)."""

    def __init__(self, dim: int):
        require_sizes(type(self).__name__, dim=dim)
        self.dim = dim
        self._ids_on_gpu: dict[tuple[int, ...], Array] = {}

    def _check(self, x: Array, start: int) -> None:
        name = type(self).__name__
        if not backend.is_array(x):
            raise check.not_an_array(name, "x", x)
        if x.ndim != 3 or x.shape[2] != self.dim:
            raise check.wrong_shape(name, "x", f"(B, T, {self.dim})", x)
        if require_whole_number(name, "start", start) < 0:
            raise check.wrong_value(name, "start", "at least 0", start)

    def _ids(self, x: Array, start: int) -> Array:
        """start, start + 1, ... in every row, (B, T) int64; on a GPU kept for each shape."""
        B, T, _ = x.shape
        key = (B, T, x.device.id) if backend.is_cupy(x) else ()
        made = self._ids_on_gpu.get(key) if key and start == 0 else None
        if made is None:
            rows = np.tile(np.arange(start, start + T), (B, 1))
            made = backend.to_device_of(rows, x) if key else rows
            if key and start == 0:  # not in decoding, where start changes with every token
                self._ids_on_gpu[key] = made
        return made

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_ids_on_gpu": {}}


class SinusoidalPositions(_AddedPositions):
    """y = x + sinusoids of the position (Vaswani et al., 2017, section 3.5; see `sinusoids`).

    Shapes: x, y (B, T, dim), for any dim, odd ones too, and any number of positions. There are no
    parameters. The table's mean square is 1/2, so that embeddings of standard deviation 1 have
    about the same size.

    Call options: ``start``, the position of the first vector; ``positions`` (B, T) int64, a numpy
    array, for rows that are packed or of different lengths. ``backward(dy)`` returns dy, which is
    the gradient of x.
    """

    def __init__(self, dim: int, base: float = 10000.0):
        super().__init__(dim)
        check.number(
            "SinusoidalPositions", "base", base, lambda x: 1 < x < np.inf, "a number greater than 1"
        )
        self.base = float(base)
        self._tables: dict[Any, list[Array]] = {}  # all that were made, as in RotaryPositions

    def forward(self, x: Array, positions: Array | None = None, start: int = 0) -> Array:
        self._check(x, start)
        if positions is None:
            table = self._table_for(start + x.shape[1], x)
            return embedding.forward(self._ids(x, start), table, x)[0]
        if not isinstance(positions, np.ndarray):
            raise TypeError(
                "SinusoidalPositions: positions must be a numpy array, got "
                f"{type(positions).__name__}"
            )
        table = self._table_for(int(positions.max(initial=0)) + 1, x)
        check.ids("SinusoidalPositions", "positions", positions, len(table), of="the positions")
        return embedding.forward(backend.to_device_of(contiguous(positions), x), table, x)[0]

    def backward(self, dy: Array) -> Array:
        return dy

    def _table_for(self, stop: int, like: Array) -> Array:
        key = str(like.dtype), str(getattr(like, "device", "cpu"))
        made = self._tables.setdefault(key, [])
        have = len(made[-1]) if made else 0
        if have < stop or not made:
            table = sinusoids(max(stop, 2 * have), self.dim, self.base).astype(like.dtype)
            made.append(backend.to_device_of(table, like))
        return made[-1]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_tables": {}}


class LearnedPositions(_AddedPositions):
    """y = x + weight[position]: an embedding of the positions 0..context-1.

    Shapes: x, y (B, T, dim) with T of at most context, weight (context, dim). The weight starts as
    N(0, 1), as an `Embedding` does, so that neither is lost in the sum; give both the same
    ``weight_init`` where they start smaller.

    Call options: ``start``, the position of the first vector; ``positions`` (B, T) int64.
    ``backward(dy)`` adds to the gradient of the weight and returns dy, the gradient of x. Raises
    ValueError for more positions than the context has, IndexError for one of ``positions`` outside
    it (on the CPU).
    """

    def __init__(self, context: int, dim: int, *, weight_init: Init | None = None):
        super().__init__(dim)
        require_sizes("LearnedPositions", context=context)
        weight_init = init.Normal(1.0) if weight_init is None else weight_init
        self.weight = Parameter((context, dim), weight_init)

    def forward(self, x: Array, positions: Array | None = None, start: int = 0) -> Array:
        self._check(x, start)
        weight, context = self.weight.compute_value, self.weight.shape[0]
        require_like("LearnedPositions", "x", x, weight)
        if positions is None:
            if start + x.shape[1] > context:
                after = f" after the first {start}" if start else ""
                raise ValueError(
                    f"LearnedPositions: {x.shape[1]} positions{after} do not fit the context of "
                    f"{context}"
                )
            ids = self._ids(x, start)
        else:
            check.arrays("LearnedPositions", positions=positions)
            check.ids("LearnedPositions", "positions", positions, context, of="the context")
            ids = backend.to_device_of(contiguous(positions), x)
            if self._saving:
                ids = own_copy(ids)
        y, saved = embedding.forward(ids, weight, x)
        self.push(saved)
        return y

    def backward(self, dy: Array) -> Array:
        embedding.backward(dy, self.pop(), self.weight.grad)
        return dy
