"""Rows of a table by their numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bench import gpu_case
from bench.cpu_case import RNG, Pair, floats, spec, twin, zeros
from bench.gpu_case import Calls, Maker, torch_device, torch_normal
from bench.lazy import F, torch
from byhand.ops import embedding


def pair(R: int, V: int, C: int) -> Pair:
    """Our backward pass adds into the table's gradient, as PyTorch's index_add_ does; its autograd
    writes a new gradient of the whole table. The traffic is that of the rows looked up."""
    ids, w, dy = RNG.integers(0, V, R), floats(V, C), floats(R, C)
    dw, numpy_dw = zeros(w), zeros(w)
    rows, table = torch.from_numpy(ids), twin(lambda w: F.embedding(rows, w), w)
    torch_dw, torch_dy = torch.zeros_like(table.leaves[0].detach()), torch.from_numpy(dy)
    backward = {
        "torch": lambda: torch_dw.index_add_(0, rows, torch_dy),
        "torch's autograd": table.runs(dy)[1],
        "numpy": lambda: np.add.at(numpy_dw, ids, dy),
    }
    return Pair(
        "embedding",
        {"R": R, "C": C},
        lambda: embedding.forward(ids, w),
        lambda saved: embedding.backward(dy, saved, dw),
        {"torch": table},
        dy,
        streams=("copy", "update"),
        others=({"numpy": lambda: w[ids]}, backward),
    )


def calls(m: Maker, R: int, V: int, C: int) -> Iterator[gpu_case.Case]:
    w, ids = m.normal(V, C), m.ids(R, V)
    dy, to = m.normal(R, C), m.empty(R, C)
    dw, work = m.full(0, V, C), m.full(0, embedding.work_size(R, C))

    def rows() -> Any:
        return torch.randint(0, V, (R,), device=torch_device())

    def forward() -> Callable[[], Any]:
        table, i = torch_normal(m.dtype, V, C), rows()
        return lambda: F.embedding(i, table)

    def backward() -> Callable[[], Any]:
        g, i = torch_normal(m.dtype, R, C), rows()
        return lambda: torch.ops.aten.embedding_dense_backward(g, i, V, -1, False)

    yield m.case(
        "embedding_forward",
        {"y": to, "w": w, "ids": ids, "scale": 1.0},
        dy.shape,
        forward,
        R=R,
        C=C,
    )
    arguments = {"dw": dw, "work": work, "dy": dy, "ids": ids, "scale": 1.0}
    yield m.case("embedding_backward", arguments, dy.shape, backward, R=R, C=C)


CPU = [
    spec(f"embedding {R} of {V}x{C}", pair, R, V, C)
    for R, V, C in (
        (768, 65, 128),
        (4096, 65, 384),
        (16384, 65, 384),
        (256, 50257, 768),
        (32768, 50257, 768),
    )
]
TINY = [spec("embedding", pair, 1, 16, 16)]
GPU = Calls(
    calls,
    # In the last, several blocks sort, by two digits.
    small=[*((70, 50, cols) for cols in (96, 97, 3000, 3001)), (2500, 600, 32)],
    full=[(1 << 16, 50304, 768)],
    counted=(199, 61, 37),
)
