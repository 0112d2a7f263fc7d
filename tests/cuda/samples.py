"""Which ops have CUDA kernels, and the samples that only they need: rows longer than a block can
hold, and more rows than one wave of blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.kernel_case import Op, Sample, generator, normal
from tests.ops.test_adamw import OP as ADAMW
from tests.ops.test_cross_entropy import OP as CROSS_ENTROPY
from tests.ops.test_grad_norm import CLIP, NORM
from tests.ops.test_layernorm import OP as LAYERNORM
from tests.ops.test_log_softmax import OP as LOG_SOFTMAX
from tests.ops.test_softmax import OP as SOFTMAX

OPS = (SOFTMAX, LOG_SOFTMAX, LAYERNORM, CROSS_ENTROPY, ADAMW, NORM, CLIP)

# The widths at which another kernel takes over, for packed and for odd rows, and their neighbours.
WIDTHS = (64, 129, 384, 768, 1024, 1028, 2047, 2048, 4100, 8191, 8192, 8200, 16384, 16400, 50257)


def _softmax(rows: int, cols: int) -> Sample:
    rng = generator("wide softmax", str(cols))
    options = {"scale": 0.6, "causal": cols % 2 == 0}
    return Sample(f"{rows}x{cols}", {"x": 3 * normal(rng, rows, cols), "mask": None}, options)


def _masked(rows: int, cols: int) -> Sample:
    rng = generator("masked softmax", str(cols))
    seen = rng.random((1, rows, cols)) < 0.5
    seen[0, -1] = False
    arrays = {"x": 3 * normal(rng, 2, rows, cols), "mask": seen}
    return Sample(f"2x{rows}x{cols}-mask", arrays, {"scale": 0.6, "causal": False})


def _log_softmax(rows: int, cols: int) -> Sample:
    rng = generator("wide log_softmax", str(cols))
    return Sample(f"{rows}x{cols}", {"x": 3 * normal(rng, rows, cols)})


def _layernorm(rows: int, cols: int) -> Sample:
    rng = generator("wide layernorm", str(cols))
    arrays = {
        "x": 2 * normal(rng, rows, cols) + 1,
        "w": normal(rng, cols),
        "b": normal(rng, cols),
        "add": normal(rng, rows, cols),
    }
    return Sample(f"{rows}x{cols}", arrays, {"eps": 1e-5})


def _cross_entropy(rows: int, cols: int) -> Sample:
    rng = generator("wide cross_entropy", str(cols))
    targets = rng.integers(0, cols, rows)
    targets[rows // 2] = -100
    arrays = {"logits": 4 * normal(rng, rows, cols), "targets": targets.astype(np.int64)}
    smoothing = 0.1 if cols % 2 else 0.0
    options = {"ignore_index": -100, "smoothing": smoothing, "mean": cols % 4 != 0}
    return Sample(f"{rows}x{cols}", arrays, options)


def _flat(op: Op, size: int) -> Sample:
    """The op's largest sample with its arrays drawn anew, `size` long."""
    model = op.big or op.samples[-1]
    rng = generator(op.name, "flat", str(size))
    arrays: dict[str, Any] = {}
    for name, array in model.arrays.items():
        longer = array is not None and array.ndim > 0
        arrays[name] = normal(rng, size) if longer else array
    if "v" in arrays:
        arrays["v"] = np.abs(arrays["v"])
    options = dict(model.options)
    if "decayed" in options:
        options["decayed"] = size // 3
    return Sample(f"{size}", arrays, options)


def wide_samples() -> Iterator[tuple[Op, Sample]]:
    for cols in WIDTHS:
        rows = 3 if cols > 5000 else 5
        yield SOFTMAX, _softmax(rows, cols)
        yield SOFTMAX, _masked(rows, cols)
        yield LOG_SOFTMAX, _log_softmax(rows, cols)
        yield LAYERNORM, _layernorm(rows, cols)
        yield CROSS_ENTROPY, _cross_entropy(rows, cols)
    yield SOFTMAX, _softmax(5000, 8)
    yield LAYERNORM, _layernorm(3000, 40)
    yield CROSS_ENTROPY, _cross_entropy(9001, 12)  # more rows than partial sums
    for size in (1023, 1 << 16, (1 << 16) + 3, 1 << 20, (1 << 20) + 3):
        yield ADAMW, _flat(ADAMW, size)
        yield NORM, _flat(NORM, size)
        yield CLIP, _flat(CLIP, size)


WIDE = tuple(wide_samples())
MOST_ON_CPU = 1 << 17  # elements of the largest array of a sample that is run on the CPU too


def name_of(case: Any) -> str:
    return str(case.name if isinstance(case, Op) else case.label)
