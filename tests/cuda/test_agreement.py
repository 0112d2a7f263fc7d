"""The GPU against the same .cu files on the CPU, on the samples of the oracle; and tests of that
comparison.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.cases import op_of
from tests.cuda import half
from tests.cuda.agreement import check_agreement
from tests.cuda.samples import EVERY, HALF, OPS, WIDE, name_of
from tests.kernel_case import Memory, Rejected, bare_reference, run
from tests.oracle import EPS, stages


@pytest.mark.gpu
@pytest.mark.parametrize(("op", "sample"), [*EVERY, *WIDE], ids=name_of)
def test_float32(op, sample, on_gpu, on_cpu):
    for stage in stages(op, sample, bare_reference()):
        gpu, cpu = (
            run(kernels, stage.kernel, stage.env, stage.shapes, np.float32, Memory())
            for kernels in (on_gpu, on_cpu)
        )
        check_agreement(stage.kernel, gpu, cpu)


@pytest.mark.gpu
@pytest.mark.parametrize(("op", "sample"), HALF, ids=name_of)
def test_bfloat16(op, sample, on_gpu, on_cpu):
    pytest.importorskip("ml_dtypes")
    for stage in stages(op, sample, bare_reference()):
        gpu, cpu = (
            half.call(kernels, stage.kernel, stage.env, stage.shapes)
            for kernels in (on_gpu, on_cpu)
        )
        check_agreement(stage.kernel, gpu, cpu)


# --- The comparison itself -----------------------------------------------------------------------

X = np.array([0.0, 1.0, -3.0, np.nan, np.inf, 1e-20], np.float32)


def changed(at: int, value: float) -> dict[str, np.ndarray]:
    other = X.copy()
    other[at] = value
    return {"y": other}


@pytest.mark.parametrize("kernel", ["clip", "softmax_forward"])
def test_equal_results_agree(kernel):
    check_agreement(kernel, {"y": X}, {"y": X.copy()})
    check_agreement(kernel, {}, {})


@pytest.mark.parametrize(
    ("at", "value"), [(1, 1 + EPS), (0, -0.0), (3, 1.0), (4, np.nan), (4, -np.inf), (5, 2e-20)]
)
def test_kernels_without_exponentials_must_give_the_same_bits(at, value):
    with pytest.raises(Rejected, match=rf"^clip: y differs .* first at \({at},\)"):
        check_agreement("clip", {"y": X}, changed(at, value))


def test_kernels_with_exponentials_may_differ_by_a_few_epsilons():
    assert "softmax_forward" in op_of("softmax_forward").cuda.inexact
    check_agreement("softmax_forward", {"y": X}, changed(1, 1 + 40 * EPS))  # of 3, the largest
    for at, value in ((1, 1 + 60 * EPS), (3, 1.0), (4, np.nan), (4, -np.inf)):
        with pytest.raises(Rejected):
            check_agreement("softmax_forward", {"y": X}, changed(at, value))


def test_results_in_bfloat16_may_differ_by_one_rounding_step():
    kept = np.array([1.0, 100.0], np.float32)
    step = np.array([1.0 + 2.0**-7, 100.0], np.float32)
    check_agreement("softmax_forward", {"y": kept}, {"y": step})
    two = np.array([1.0 + 2.0**-6, 100.0], np.float32)
    with pytest.raises(Rejected):
        check_agreement("softmax_forward", {"y": kept}, {"y": two})


def test_every_inexact_kernel_exists():
    for op in OPS:
        assert set(op.kernels) >= set(op.cuda.inexact)
