"""Runs a few samples of every op once, under AddressSanitizer or ThreadSanitizer. These are slow,
but need only a few blocks to find an error. Skipped in a build without a sanitizer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from byhand import _build
from tests import oracle
from tests.cuda import half
from tests.cuda.samples import OPS, WIDE
from tests.cuda.test_hopper import FEW
from tests.kernel_case import Op, Sample, bare_reference, run

MOST = 50_000  # elements


def some() -> Iterator[tuple[Op, Sample]]:
    for op in OPS:
        wide = [sample for other, sample in WIDE if other is op and sample.elements <= MOST]
        wide.sort(key=lambda sample: sample.elements)
        small = [sample for sample in op.samples if sample.elements <= 4096]
        for sample in (*small[:3], *wide[::-4]):
            yield op, sample


@pytest.mark.skipif(not _build.SANITIZE, reason="this build has no sanitizer")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("op", "sample"), [*some()], ids=lambda c: getattr(c, "label", None))
def test_nothing_is_found(op: Op, sample: Sample, dtype: str, on_cpu: Any) -> None:
    """What a sanitizer finds ends the process, or its exit status says so."""
    if dtype == "bfloat16":
        if op.cuda.bf16:
            half.check(op, sample, on_cpu)
        return
    for stage in oracle.stages(op, sample, bare_reference()):
        run(on_cpu, stage.kernel, stage.env, stage.shapes, np.float32)


@pytest.mark.skipif(not _build.SANITIZE, reason="this build has no sanitizer")
@pytest.mark.parametrize(("op", "sample"), FEW, ids=lambda c: getattr(c, "label", None))
def test_nothing_is_found_in_products_for_hopper(
    op: Op, sample: Sample, on_cpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BYHAND_GEMM_HOPPER", "1")
    half.check(op, sample, on_cpu)
