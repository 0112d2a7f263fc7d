"""The linear layer with packed weights: steps of decoding and a prompt, in GPT-2 124M's shapes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bench import gpu_case
from bench.cpu_case import Case, Run, cost, floats, single
from bench.gpu_case import Calls, Maker, torch_forward
from bench.lazy import F, torch
from byhand.ops import linear, packed_linear
from byhand.ops.packed_linear import FORMATS

MATRICES = ((768, 768), (768, 2304), (768, 3072), (3072, 768), (768, 50257))
FEW_ROWS = 16  # below, weights are what takes the time, and come from memory
CYCLE = 256 << 20  # bytes of the copies of the weights that are multiplied one after the other


def case(name: str, R: int, K: int, N: int, format: packed_linear.Format) -> Case:
    x, w = floats(R, K), floats(N, K)
    first = packed_linear.pack_weights(w, format)
    dtype = torch.bfloat16 if format == "bf16" else torch.float32
    row, tensor = torch.from_numpy(x).to(dtype), torch.from_numpy(w).to(dtype)
    if R >= FEW_ROWS:
        return Case(
            name,
            lambda: packed_linear.forward(x, first),
            {"torch": lambda: F.linear(row, tensor), "linear": lambda: linear.forward(x, w)},
            **cost("packed_linear_forward", {"R": R, "K": K, "N": N}),
        )
    copies = max(1, CYCLE // first.nbytes)
    weights = [first, *(packed_linear.pack_weights(w, format) for _ in range(copies - 1))]
    tensors = [tensor.clone() for _ in range(max(1, CYCLE // (tensor.itemsize * tensor.numel())))]

    def mine() -> None:
        for one in weights:
            packed_linear.forward(x, one)

    def theirs() -> None:
        for i in range(copies):
            F.linear(row, tensors[i % len(tensors)])

    rivals: dict[str, Run] = {"torch": theirs}
    return Case(name, mine, rivals, bytes=float(copies * first.nbytes), stream="read")


def calls(m: Maker, R: int, K: int, N: int) -> Iterator[gpu_case.Case]:
    w, x, b = m.normal(N, K), m.normal(R, K), m.normal(N)
    for number, format in enumerate(FORMATS):
        words = m.xp.zeros(packed_linear.words_shape((N, K), format), np.int64)
        y = m.empty(R, N)
        yield gpu_case.Case(
            f"packed_linear_pack, {format}",
            (N, K),
            m.dtype,
            w.nbytes + words.nbytes,
            (("packed_linear_pack", {"words": words, "w": w, "format": number}),),
        )
        arguments = {"y": y, "x": x, "w": words, "b": b, "format": number}
        yield gpu_case.Case(
            f"packed_linear_forward, {format}",
            (R, K, N),
            m.dtype,
            sum(a.nbytes for a in (y, x, words, b)),
            (("packed_linear_forward", arguments),),
            torch_forward(m.dtype, F.linear, (R, K), (N, K), (N,)),
        )


CPU = [
    single(f"packed_linear {format} {R}x{K} to {N}", case, R, K, N, format)
    for format in FORMATS
    for R in (1, 8, 512)
    for K, N in MATRICES
]
TINY = [single("packed_linear", case, FEW_ROWS, 16, 16, "float32")]
GPU = Calls(
    calls,
    small=[(40, 24, 136), (9, 17, 33), (1, 515, 40)],
    full=[(1, 16384, 16384), (8, 16384, 16384)],  # as in decoding
    counted=(61, 67, 71),
)
