"""The ops that have CUDA kernels, and the samples that only those need."""

from __future__ import annotations

from typing import Any

from tests.cases import all_ops
from tests.kernel_case import Op

OPS = all_ops()
WIDE = tuple((op, sample) for op in OPS for sample in op.cuda.wide())
EVERY = tuple((op, s) for op in OPS for s in (*op.samples, op.big) if s is not None)
HALF = tuple((op, s) for op, s in (*EVERY, *WIDE) if op.cuda.bf16)  # the op takes bfloat16

MOST_ON_CPU = 1 << 17  # elements of the largest array of a sample that is run on the CPU too


def name_of(case: Any) -> str:
    return str(case.name if isinstance(case, Op) else case.label)
