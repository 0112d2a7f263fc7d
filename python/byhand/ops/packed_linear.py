"""The affine map of the last axis with weights that are packed once, for inference.

    y = x wT + b + add

A step of decoding reads every weight once and does little else, so what it takes is the bytes of
the weights. They are packed in one of these formats, 32 rows of w side by side:

    float32    as they are
    bf16       rounded to bfloat16
    int8       8.5 bits a weight: groups of 32 along k, w = scale q with q in -127..127
    int4       4.5 bits: w = scale (q - 8) with q in 0..15
    int4_1     5 bits: w = scale q + minimum

The scales are numbers of 16 bits; the last three are Q8_0, Q4_0 and Q4_1 of llama.cpp. With them x
is rounded too: to bytes and a float32 scale for each group of 32, as Q8_0 does (Dettmers et al.,
"LLM.int8()", 2022, section 2.1, for groups of 32 in place of rows).

**A row of y has the same bits whatever the other rows are, and for any number of them**: each of
its elements is one chain of multiply-adds in the order of k, over groups where there are some. So a
text is the same with a cache or without, alone or in a batch.

There is no backward pass: packed weights are not trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from byhand.backend import Array, In, Mut, Out, empty, is_cupy, kernels, reference_kernel, to_numpy
from byhand.errors import suggestion
from byhand.ops import check
from byhand.ops.declare import op
from byhand.ops.linear import as_rows
from byhand.ops.precision import round_bf16

Format = Literal["float32", "bf16", "int8", "int4", "int4_1"]
FORMATS: tuple[str, ...] = get_args(Format)  # a kernel takes the number of a format in this order

_COLS = 32  # rows of w, which are columns of the product, side by side in a panel
_GROUP = 32  # numbers along k that share a scale
_LEAST = np.float32(1.17549435e-38)  # a scale below has no inverse: the group counts as zeros
_HALF = 65504.0  # the largest number of 16 bits
_LARGEST = {  # a weight that the format can hold
    "float32": float(np.finfo(np.float32).max),
    "bf16": 3.3895313892515355e38,
    "int8": 127 * _HALF,
    "int4": 8 * _HALF,
    "int4_1": _HALF,
}


@dataclass(frozen=True)
class PackedWeights:
    """Weights of shape (N, K) in one of FORMATS; see csrc/ops/linear/packed_format.h for the order
    of `words`, an int64 array of shape (panels of 32 rows, words of a panel).
    """

    words: Array
    shape: tuple[int, int]
    format: str

    @property
    def nbytes(self) -> int:
        return int(self.words.nbytes)


def _panel_bytes(format: str, k: int) -> int:
    groups = -(-k // _GROUP)
    return {
        "float32": 4 * _COLS * k,
        "bf16": 4 * _COLS * -(-k // 2),
        "int8": groups * _COLS * (2 + _GROUP),
        "int4": groups * _COLS * (2 + _GROUP // 2),
        "int4_1": groups * _COLS * (4 + _GROUP // 2),
    }[format]


def words_shape(shape: tuple[int, int], format: str) -> tuple[int, int]:
    """The shape of the words of weights of this shape in this format."""
    n, k = shape
    return -(-n // _COLS), _panel_bytes(format, k) // 8


# --- Groups of integers -------------------------------------------------------------------------


def _groups(a: np.ndarray) -> np.ndarray:
    """(R, K) in float32 -> (R, G, 32), filled up with zeros."""
    rows, k = a.shape
    groups = -(-k // _GROUP)
    padded = np.zeros((rows, groups * _GROUP), np.float32)
    padded[:, :k] = a
    return padded.reshape(rows, groups, _GROUP)


def _inverse(scale: np.ndarray) -> np.ndarray:
    some = np.abs(scale) >= _LEAST
    return np.where(some, np.float32(1) / np.where(some, scale, np.float32(1)), np.float32(0))


def _round_away(a: np.ndarray) -> np.ndarray:
    """To the nearest integer, half away from zero."""
    magnitude = np.abs(a)
    below = np.floor(magnitude)
    return np.copysign(below + np.floor(2 * (magnitude - below)), a)


def _quantised(w: np.ndarray, format: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """w (N, K) in float32 -> q (N, G, 32), scale (N, G), minimum (N, G) or None.

    As ggml-quants.c of llama.cpp computes them. q is signed in int8, 0..15 in the others.
    """
    groups = _groups(w)
    if format == "int8":
        scale = np.abs(groups).max(axis=-1, initial=0) / np.float32(127)
        return _round_away(groups * _inverse(scale)[..., None]), scale, None
    if format == "int4":
        at = np.abs(groups).argmax(axis=-1)[..., None]
        scale = np.take_along_axis(groups, at, axis=-1)[..., 0] / np.float32(-8)
        q = np.trunc(groups * _inverse(scale)[..., None] + np.float32(8.5))
        return np.minimum(q, 15), scale, None
    minimum = groups.min(axis=-1)
    scale = (groups.max(axis=-1) - minimum) / np.float32(15)
    q = np.trunc((groups - minimum[..., None]) * _inverse(scale)[..., None] + np.float32(0.5))
    return np.minimum(q, 15), scale, minimum


def _rounded_rows(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x (R, K) -> integers (R, G, 32) and scales (R, G), in the dtype of x, computed in float32. In
    a group with a number that is not finite the scale is NaN.
    """
    groups = _groups(x)
    finite = np.isfinite(groups).all(axis=-1)
    groups = np.where(finite[..., None], groups, 0)
    scale = np.abs(groups).max(axis=-1, initial=0) / np.float32(127)
    scale = np.where(scale < _LEAST, np.float32(0), scale)
    q = np.rint(groups * _inverse(scale)[..., None])
    return q.astype(x.dtype), np.where(finite, scale, np.float32(np.nan)).astype(x.dtype)


# --- The order in memory ------------------------------------------------------------------------


def _bytes_of(w: np.ndarray, format: str) -> np.ndarray:
    """w (N, K) in float32 -> bytes (panels, bytes of a panel)."""
    n, k = w.shape
    panels = -(-n // _COLS)
    padded = np.zeros((panels * _COLS, k + k % 2), np.float32)
    padded[:n, :k] = w
    if format == "float32":
        packed: np.ndarray = padded[:, :k].reshape(panels, _COLS, k).transpose(0, 2, 1)
    elif format == "bf16":
        halves = (round_bf16(padded).view(np.uint32) >> 16).astype(np.uint16)
        packed = halves.reshape(panels, _COLS, (k + 1) // 2, 2).transpose(0, 2, 1, 3)
    else:
        q, scale, minimum = _quantised(padded[:, :k], format)
        if format == "int8":
            numbers = (q + 128).astype(np.uint8)
        else:
            numbers = (q[..., :16] + 16 * q[..., 16:]).astype(np.uint8)
        groups = q.shape[1]
        steps = numbers.shape[-1] // 4
        quads = numbers.reshape(panels, _COLS, groups, steps, 4).transpose(0, 2, 3, 1, 4)
        heads = [h.astype(np.float16) for h in (scale, minimum) if h is not None]
        parts = [h.reshape(panels, _COLS, groups).transpose(0, 2, 1) for h in heads]
        parts = [np.ascontiguousarray(h).view(np.uint8) for h in parts]
        packed = np.concatenate([*parts, quads.reshape(panels, groups, steps * 4 * _COLS)], axis=-1)
    return np.ascontiguousarray(packed).view(np.uint8).reshape(panels, _panel_bytes(format, k))


class _Unpacked:
    """Packed words as numbers: `w` (N, K) in float32 and bf16, else q (N, G, 32), scale and minimum
    (N, G) with w = scale q + minimum.
    """

    def __init__(self, words: np.ndarray, shape: tuple[int, int], format: str):
        n, k = shape
        panels = -(-n // _COLS)
        raw = np.ascontiguousarray(words).view(np.uint8)
        self.w: np.ndarray | None = None
        if format == "float32":
            rows = raw.view(np.float32).reshape(panels, k, _COLS).transpose(0, 2, 1)
            self.w = rows.reshape(panels * _COLS, k)[:n]
            return
        if format == "bf16":
            halves = raw.view(np.uint16).reshape(panels, -(-k // 2), _COLS, 2).transpose(0, 2, 1, 3)
            bits = halves.reshape(panels * _COLS, k + k % 2)[:n, :k].astype(np.uint32) << 16
            self.w = bits.view(np.float32)
            return
        groups = -(-k // _GROUP)
        blocks = raw.reshape(panels, groups, _panel_bytes(format, _GROUP))

        def halves_at(begin: int) -> np.ndarray:
            numbers = np.ascontiguousarray(blocks[..., begin : begin + 2 * _COLS]).view(np.float16)
            return numbers.astype(np.float32).transpose(0, 2, 1).reshape(panels * _COLS, groups)[:n]

        self.scale = halves_at(0)
        self.minimum = halves_at(2 * _COLS) if format == "int4_1" else np.zeros_like(self.scale)
        head = 4 * _COLS if format == "int4_1" else 2 * _COLS
        per_column = _GROUP if format == "int8" else _GROUP // 2
        quads = (
            blocks[..., head:]
            .reshape(panels, groups, per_column // 4, _COLS, 4)
            .transpose(0, 3, 1, 2, 4)
        )
        numbers = quads.reshape(panels * _COLS, groups, per_column)[:n]
        if format == "int8":
            self.q = numbers.astype(np.float32) - 128
        else:
            self.q = np.concatenate([numbers & 15, numbers >> 4], axis=-1).astype(np.float32)
            if format == "int4":
                self.q -= 8


@reference_kernel
def packed_linear_forward(
    y: Out, x: In, w: In[np.int64], b: In | None, add: In | None, format: int
) -> None:
    k, n = x.shape[-1], y.shape[-1]
    rows, dtype = as_rows(x), x.dtype
    unpacked = _Unpacked(w, (n, k), FORMATS[format])
    if unpacked.w is not None:
        sums = rows @ unpacked.w.T.astype(dtype)
    else:
        sums = np.zeros((len(rows), n), dtype)
        q, scale = _rounded_rows(rows)
        for g in range(q.shape[1]):
            exact = q[:, g] @ unpacked.q[:, g].T.astype(dtype)  # integers below 2^24
            sums = sums + exact * (scale[:, g, None] * unpacked.scale[:, g].astype(dtype))
            least = unpacked.minimum[:, g].astype(dtype)
            sums = sums + q[:, g].sum(axis=-1, keepdims=True) * scale[:, g, None] * least
    if b is not None:
        sums = sums + b
    sums = sums.reshape(y.shape)
    y[...] = sums if add is None else sums + add


@reference_kernel
def packed_linear_pack(words: Mut[np.int64], w: In, format: int) -> None:
    words[...] = _bytes_of(w.astype(np.float32), FORMATS[format]).view(np.int64)


# --- Public functions ---------------------------------------------------------------------------


def _number(where: str, format: str) -> int:
    """The number of a format; ValueError for another word."""
    if format not in FORMATS:
        words = f"{', '.join(map(repr, FORMATS[:-1]))} or {FORMATS[-1]!r}"
        error = check.wrong_value(where, "format", words, format)
        raise ValueError(f"{error}{suggestion(format, FORMATS)}")
    return FORMATS.index(format)


@op(w="N K")
def pack_weights(w: Array, format: Format = "float32") -> PackedWeights:
    """w (N, K), as of a linear layer -> the same packed, on the same device.

    ValueError for another format, and for a weight that is not finite or that the format cannot
    hold; on the CPU only, since reading an array of a GPU would wait for it.
    """
    number = _number("packed_linear.pack_weights", format)
    kernel = kernels(w).packed_linear_pack
    check.all_up_to("packed_linear.pack_weights", "w", w, _LARGEST[format], f"in {format}")
    words = empty(words_shape(w.shape, format), w, np.int64)
    kernel(words, w, number)
    return PackedWeights(words, w.shape, format)


def unpack(weights: PackedWeights) -> np.ndarray:
    """The weights (N, K) that a product is computed with, in float32, on the CPU."""
    n, k = weights.shape
    unpacked = _Unpacked(to_numpy(weights.words), weights.shape, weights.format)
    if unpacked.w is not None:
        return unpacked.w
    numbers = unpacked.scale[..., None] * unpacked.q + unpacked.minimum[..., None]
    return numbers.reshape(n, numbers.shape[1] * _GROUP)[:, :k]


@op(x="... K", b="*?", add="*?")
def forward(x: Array, w: PackedWeights, b: Array | None = None, add: Array | None = None) -> Array:
    """x (..., K), w packed from (N, K), b (N,) or None, add (..., N) or None -> y (..., N).

    The same bits for each row of x, whatever the other rows are. ValueError for a shape, TypeError
    for weights that are not packed or on another device.
    """
    kernel = kernels(x).packed_linear_forward
    where = "packed_linear.forward"
    if not isinstance(w, PackedWeights):
        raise TypeError(
            f"{where}: w must be what packed_linear.pack_weights returned, got {type(w).__name__}"
        )
    n, k = w.shape
    shape = (*x.shape[:-1], n)
    if x.shape[-1] != k:
        raise check.wrong_shape(where, "x", f"(..., {k}), as w was packed from {w.shape}", x)
    if b is not None and b.shape != (n,):
        raise check.wrong_shape(where, "b", (n,), b)
    if add is not None and add.shape != shape:
        raise check.wrong_shape(where, "add", shape, add)
    if is_cupy(w.words) is not is_cupy(x):
        raise TypeError(f"{where}: w and x must be on the same device")
    y = empty(shape, x)
    kernel(y, x, w.words, b, add, _number(where, w.format))
    return y
