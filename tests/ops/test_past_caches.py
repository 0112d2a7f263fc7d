"""Results that the caches cannot hold are written past them: the same bits, and no other memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from byhand import backend
from byhand.backend.native import load
from tests import oracle
from tests.cases import all_ops
from tests.kernel_case import Memory, Op, bare_reference, run

OPS = [op for op in all_ops() if op.past_caches]


@pytest.fixture
def small_cache(native: str) -> Iterator[Any]:
    """Sets the size of the last-level cache that the kernels assume."""
    module = load(native)
    yield module.set_last_level_cache
    module.set_last_level_cache(0)


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
@pytest.mark.parametrize("shift", [0, 1], ids=["aligned", "unaligned"])
def test_the_same_bits(op: Op, native: str, shift: int, small_cache: Any) -> None:
    kernels = backend.cpu_modules()[native]
    for sample in op.samples:
        for stage in oracle.stages(op, sample, bare_reference()):
            results = []
            for size in (0, 1):
                small_cache(size)
                call = (stage.kernel, stage.env, stage.shapes, np.float32)
                results.append(run(kernels, *call, Memory(shift, sample.layout)))
            cached, past = results
            for name in cached.keys() - op.scratch:
                same = past[name].tobytes() == cached[name].tobytes()
                assert same, f"{sample.label}: {stage.kernel}: {name}"


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_in_place(op: Op, native: str, small_cache: Any) -> None:
    small_cache(1)
    for sample in op.samples:
        oracle.check_in_place(op, sample, backend.cpu_modules()[native])


def test_the_size_of_the_cache(native: str, small_cache: Any) -> None:
    with backend.use_cpu(native):
        found = backend.last_level_cache()
        assert 256 << 10 <= found <= 16 << 30
        small_cache(12345)
        assert backend.last_level_cache() == 12345
        small_cache(0)
        assert backend.last_level_cache() == found
