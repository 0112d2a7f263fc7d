"""Every CUDA kernel against the numpy reference, with the checks of the CPU's kernels. Tests of a
single op are in tests/ops/test_<op>.py.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from byhand import backend
from tests import oracle
from tests.cuda import half
from tests.cuda.samples import EVERY, HALF, MOST_ON_CPU, WIDE
from tests.kernel_case import Memory, bare_reference, run


def size_of(op, sample):
    """Elements of the largest array."""
    results = (math.prod(shape) for shape in op.result_shapes(sample).values())
    return max(sample.elements, max(results, default=0))


def on_both(cases):
    """On the GPU all of them; on the CPU, which is slow, those of moderate size."""
    few = [case for case in cases if size_of(*case) <= MOST_ON_CPU]
    return pytest.mark.parametrize(
        ("device_kernels", "op", "sample"),
        [
            pytest.param(where, *case, marks=marks, id=f"{where}-{case[0].name}-{case[1].label}")
            for where, some, marks in (("on_cpu", few, ()), ("on_gpu", cases, pytest.mark.gpu))
            for case in some
        ],
        indirect=["device_kernels"],
    )


@pytest.mark.parametrize("shift", [0, 1, 2, 3])
@on_both(EVERY)
def test_samples(op, sample, shift, device_kernels):
    oracle.check_native(op, sample, device_kernels, shift)


@pytest.mark.deep
@pytest.mark.parametrize("shift", [0, 1])
@on_both(WIDE)
def test_wide(op, sample, shift, device_kernels):
    oracle.check_native(op, sample, device_kernels, shift)


@pytest.mark.deep
@on_both(HALF)
def test_bfloat16(op, sample, device_kernels):
    pytest.importorskip("ml_dtypes")
    half.check(op, sample, device_kernels)


@pytest.mark.deep
@on_both([*EVERY, *WIDE])
def test_same_bits_every_time_and_under_every_schedule(op, sample, device_kernels):
    for stage in oracle.stages(op, sample, bare_reference()):
        runs = []
        for way in device_kernels.again():
            with way:
                runs.append(
                    run(device_kernels, stage.kernel, stage.env, stage.shapes, np.float32, Memory())
                )
        for name in runs[0].keys() - op.scratch:
            assert len({r[name].tobytes() for r in runs}) == 1, name


@on_both(EVERY)
def test_in_place(op, sample, device_kernels):
    oracle.check_in_place(op, sample, device_kernels)


@on_both(EVERY)
def test_a_nan_stays_in_its_row(op, sample, device_kernels):
    oracle.check_rows(op, sample, device_kernels)


@pytest.mark.gpu
def test_two_streams_do_not_share_their_partial_sums(on_gpu):
    import cupy

    rng = np.random.default_rng(6)
    arrays = [cupy.asarray(rng.standard_normal(1 << 22).astype(np.float32)) for _ in range(4)]
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in arrays]
    norms = [cupy.zeros((), np.float32) for _ in arrays]
    works = [cupy.zeros(1024, np.float32) for _ in arrays]
    cupy.cuda.Device().synchronize()
    for _ in range(20):
        for g, stream, norm, work in zip(arrays, streams, norms, works, strict=True):
            with stream:
                backend.cuda().grad_norm(norm, work, g)
    cupy.cuda.Device().synchronize()
    for g, norm in zip(arrays, norms, strict=True):
        exact = np.sqrt((cupy.asnumpy(g).astype(np.float64) ** 2).sum())
        assert abs(float(norm) - exact) <= 1e-6 * exact
