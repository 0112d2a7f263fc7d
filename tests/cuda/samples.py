"""Which ops have CUDA kernels, and the samples that only they need: rows longer than a block can
hold, and more rows than one wave of blocks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.kernel_case import Op, Sample, generator, normal
from tests.ops.test_adamw import OP as ADAMW
from tests.ops.test_adamw import sample as adamw_sample
from tests.ops.test_attention import OP as ATTENTION
from tests.ops.test_attention import sample as attention_sample
from tests.ops.test_bias_gelu import OP as BIAS_GELU
from tests.ops.test_cross_entropy import GRADIENT
from tests.ops.test_cross_entropy import OP as CROSS_ENTROPY
from tests.ops.test_dropout import OP as DROPOUT
from tests.ops.test_embedding import OP as EMBEDDING
from tests.ops.test_gelu_ffn import OP as GELU_FFN
from tests.ops.test_gelu_ffn import sample as gelu_ffn_sample
from tests.ops.test_grad_norm import CLIP, NORM
from tests.ops.test_layernorm import OP as LAYERNORM
from tests.ops.test_linear import OP as LINEAR
from tests.ops.test_linear import sample as linear_sample
from tests.ops.test_linear_cross_entropy import OP as LINEAR_CROSS_ENTROPY
from tests.ops.test_linear_cross_entropy import sample as linear_cross_entropy_sample
from tests.ops.test_log_softmax import OP as LOG_SOFTMAX
from tests.ops.test_matmul import OP as MATMUL
from tests.ops.test_matmul import sample as matmul_sample
from tests.ops.test_rmsnorm import OP as RMSNORM
from tests.ops.test_softmax import OP as SOFTMAX

OPS = (
    SOFTMAX,
    LOG_SOFTMAX,
    LAYERNORM,
    RMSNORM,
    CROSS_ENTROPY,
    GRADIENT,
    EMBEDDING,
    DROPOUT,
    ADAMW,
    NORM,
    CLIP,
    ATTENTION,
    MATMUL,
    LINEAR,
    BIAS_GELU,
    GELU_FFN,
    LINEAR_CROSS_ENTROPY,
)

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


def _norm(op: Op, rows: int, cols: int, fused: bool) -> Sample:
    """The norm of a residual sum, or of x with a gradient that passes the norm."""
    rng = generator(f"wide {op.name}", str(cols))
    arrays = {
        "x": 2 * normal(rng, rows, cols) + 1,
        "w": normal(rng, cols),
        "b": normal(rng, cols),
        "add": normal(rng, rows, cols) if fused else None,
        "ds": None if fused else normal(rng, rows, cols),
    }
    if op is RMSNORM:
        del arrays["b"]
    return Sample(f"{rows}x{cols}", arrays, {"eps": 1e-5})


def _cross_entropy(rows: int, cols: int) -> Sample:
    rng = generator("wide cross_entropy", str(cols))
    targets = rng.integers(0, cols, rows)
    targets[rows // 2 :][1:2] = -100
    arrays = {"logits": 4 * normal(rng, rows, cols), "targets": targets.astype(np.int64)}
    smoothing = 0.1 if cols % 2 else 0.0
    options = {"ignore_index": -100, "smoothing": smoothing, "mean": cols % 4 != 0}
    return Sample(f"{rows}x{cols}", arrays, options)


def _embedding(rows: int, classes: int, cols: int, often: float = 0.0) -> Sample:
    """Row numbers drawn anew; `often` of them are one id."""
    rng = generator("wide embedding", str(rows), str(classes), str(cols))
    ids = rng.integers(0, classes, rows)
    ids[rng.random(rows) < often] = classes // 3
    arrays = {"ids": ids, "w": normal(rng, classes, cols), "add": normal(rng, rows, cols)}
    return Sample(f"{rows}x{classes}x{cols}", arrays)


def _flat(op: Op, size: int) -> Sample:
    """The op's largest sample with its arrays drawn anew, `size` long."""
    model = op.big or op.samples[-1]
    rng = generator(op.name, "flat", str(size))
    arrays: dict[str, Any] = {}
    for name, array in model.arrays.items():
        longer = array is not None and array.ndim > 0
        arrays[name] = normal(rng, size) if longer else array
    return Sample(f"{size}", arrays, model.options)


def _attention() -> Iterator[Sample]:
    """Every rule at lengths around a tile and at several, heads of every depth that has kernels."""
    depths = itertools.cycle((32, 64, 80, 96, 128))
    for n in (1, 17, 63, 64, 65, 200, 256, 1000):
        heads, long = 2 if n < 100 else 1, n > 256
        rules: tuple[dict[str, Any], ...] = (
            {},
            {"causal": True},
            {"lengths": (n - n // 3,)},
            {"window": n // 4 + 1},
            {"mask": "111v" if long else "11vv"},
            {"dropout": 0.2, "causal": True},
        )
        for rule in rules:
            yield attention_sample(1, n, n, heads, 32 if long else next(depths), **rule)
    for depth in (40, 72, 100, 120):  # as many packs as whole tiles have not, or a part of one
        yield attention_sample(1, 70, 100, 2, depth, causal=True, layout="transposed")
    yield attention_sample(2, 130, 70, 4, 64, groups=2, lengths=(70, 33), window=40, causal=True)
    yield attention_sample(1, 64, 200, 6, 33, groups=2, mask="1vvv", dropout=0.3, scale=-0.2)
    # Decoding: one query and a few, one head a group and several, pieces that nobody sees.
    yield attention_sample(2, 1, 257, 2, 64, lengths=(257, 0))
    yield attention_sample(1, 1, 1300, 8, 128, groups=2, window=600)
    yield attention_sample(2, 3, 515, 6, 96, groups=2, causal=True, lengths=(515, 200))
    yield attention_sample(1, 4, 300, 3, 65, mask="1vvv", causal=True)
    yield attention_sample(1, 2, 300, 2, 32, dropout=0.2)


def _products() -> Iterator[tuple[Op, Sample]]:
    """Sizes around a tile and its steps, packed and not; several tiles and bands of tiles."""
    for i, transposed in enumerate(("", "a", "b", "ab")):
        yield MATMUL, matmul_sample(129, 63, 65, transposed)
        yield MATMUL, matmul_sample(64, 200, 136, transposed)
        yield MATMUL, matmul_sample((1, 17, 127, 200)[i], 128, 128, transposed, bf16=True)
        yield MATMUL, matmul_sample(136, (8, 24, 40, 72)[i], 64, transposed, bf16=True)
    yield MATMUL, matmul_sample(1160, 8, 264)
    yield LINEAR, linear_sample((128,), 96, 136, add=True)
    yield LINEAR, linear_sample((65,), 128, 64, b=False)
    yield LINEAR, linear_sample((200,), 64, 72, add=True, bf16=True)
    yield LINEAR, linear_sample((2000,), 16, 40, frozen="dx")
    yield GELU_FFN, gelu_ffn_sample((130,), 24, 72, add=True)
    yield GELU_FFN, gelu_ffn_sample((33,), 40, 128, tanh=False, b1=False)
    # So deep that the depth is cut in pieces, the last one shorter; packed and not.
    for transposed in ("", "a", "b", "ab"):
        yield MATMUL, matmul_sample(24, 2136, 40, transposed)
        yield MATMUL, matmul_sample(19, 2117, 23, transposed)
    yield LINEAR, linear_sample((2100,), 24, 40, add=True)
    yield LINEAR, linear_sample((17,), 2056, 16, bf16=True)
    yield GELU_FFN, gelu_ffn_sample((20,), 2080, 8, add=True)
    # Few rows.
    for rows, inner, cols in ((1, 64, 17), (3, 520, 40), (8, 1024, 33), (15, 40, 72), (16, 8, 24)):
        yield LINEAR, linear_sample((rows,), inner, cols, add=rows % 2 == 1, frozen="dw")
        yield LINEAR, linear_sample((rows,), inner, cols, b=False, bf16=True, frozen="dw")
    yield GELU_FFN, gelu_ffn_sample((5,), 40, 72, add=True)
    yield LINEAR_CROSS_ENTROPY, linear_cross_entropy_sample((130,), 24, 136, block=50)
    yield LINEAR_CROSS_ENTROPY, linear_cross_entropy_sample((9,), 16, 2056, block=5, smoothing=0.1)


def wide_samples() -> Iterator[tuple[Op, Sample]]:
    for i, cols in enumerate(WIDTHS):
        rows = 3 if cols > 5000 else 5
        yield SOFTMAX, _softmax(rows, cols)
        yield SOFTMAX, _masked(rows, cols)
        yield LOG_SOFTMAX, _log_softmax(rows, cols)
        yield LAYERNORM, _norm(LAYERNORM, rows, cols, i % 2 == 0)
        yield RMSNORM, _norm(RMSNORM, rows, cols, i % 2 == 1)
        yield CROSS_ENTROPY, _cross_entropy(rows, cols)
        yield GRADIENT, _cross_entropy(rows, cols)
    for cols in (2053, 2061):  # float32, bfloat16: the fifth row has a pack more than the third
        yield GRADIENT, _cross_entropy(5, cols)
    for shape in ((2, 60_000), (1, 125_003), (5, 131_072)):  # more than shared memory holds
        yield GRADIENT, _cross_entropy(*shape)
    yield SOFTMAX, _softmax(5000, 8)
    yield LAYERNORM, _norm(LAYERNORM, 3000, 40, True)
    yield RMSNORM, _norm(RMSNORM, 3000, 42, False)
    for cols in (58368, 58369):  # too long for shared memory
        yield SOFTMAX, _softmax(1, cols)
        yield LAYERNORM, _norm(LAYERNORM, 1, cols, cols % 2 == 0)
    yield CROSS_ENTROPY, _cross_entropy(9001, 12)  # more rows than partial sums
    yield GRADIENT, _cross_entropy(9001, 12)
    yield EMBEDDING, _embedding(5000, 65, 40)  # several blocks sort, runs of several pieces
    yield EMBEDDING, _embedding(3000, 1, 24)  # one run of all pieces
    yield EMBEDDING, _embedding(2100, 600, 17, often=0.5)  # two passes of the sort
    yield EMBEDDING, _embedding(70, 300_000, 4)  # three
    yield EMBEDDING, _embedding(20, 7, 2100)  # several blocks of columns
    for sample in _attention():
        yield ATTENTION, sample
    yield from _products()
    for size in (1020, 20_003):
        yield ADAMW, adamw_sample(size, *range(1, size, 23), t=7, copy=size % 2 == 0)
    for size in (1023, 1 << 16, (1 << 16) + 3, 1 << 20, (1 << 20) + 3):
        yield ADAMW, adamw_sample(size, size // 3, norm=3.0, t=7, copy=size % 2 == 1)
        yield NORM, _flat(NORM, size)
        yield CLIP, _flat(CLIP, size)


WIDE = tuple(wide_samples())
MOST_ON_CPU = 1 << 17  # elements of the largest array of a sample that is run on the CPU too


def name_of(case: Any) -> str:
    return str(case.name if isinstance(case, Op) else case.label)
