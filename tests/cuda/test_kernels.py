"""Every CUDA kernel against the numpy reference, judged as the CPU's kernels are."""

from __future__ import annotations

import numpy as np
import pytest

from tests import oracle
from tests.cuda import half
from tests.cuda.samples import MOST_ON_CPU, OPS, WIDE
from tests.kernel_case import Memory, bare_reference, run

EVERY = [(op, sample) for op in OPS for sample in (*op.samples, op.big) if sample is not None]
HALF = [(op, s) for op, s in (*EVERY, *WIDE) if op.name in half.OPS]


def on_both(cases):
    """On the GPU all of them; on the CPU, where a thread takes its turn, those of moderate size."""
    few = [case for case in cases if case[1].elements <= MOST_ON_CPU]
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


@pytest.mark.parametrize("shift", [0, 1])
@on_both(WIDE)
def test_wide(op, sample, shift, device_kernels):
    oracle.check_native(op, sample, device_kernels, shift)


@on_both(HALF)
def test_bfloat16(op, sample, device_kernels):
    pytest.importorskip("ml_dtypes")
    half.check(op, sample, device_kernels)


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


@pytest.mark.parametrize("groups", [1, 2, 7, 200])
@pytest.mark.parametrize("cols", [40, 1500, 8500])
def test_layernorm_backward_with_any_number_of_groups(groups, cols, device_kernels):
    """work[g] holds the sums of the rows of group g; groups without rows hold zeros."""
    rng = np.random.default_rng(cols + groups)
    rows = 23
    x, dy = (rng.standard_normal((rows, cols)).astype(np.float32) for _ in range(2))
    w = rng.standard_normal(cols).astype(np.float32)
    mean, rstd = x.mean(-1), (1 / x.std(-1)).astype(np.float32)
    dx, work = np.full_like(x, np.nan), np.full((groups, 2, cols), np.nan, np.float32)
    dw, db = np.zeros((2, cols), np.float32)
    device_kernels.layernorm_backward(dx, dw, db, work, dy, x, w, mean, rstd, None)
    each = -(-rows // groups)
    normal = (x - mean[:, None]).astype(np.float64) * rstd[:, None]
    for g in range(groups):
        mine = slice(g * each, (g + 1) * each)
        expected = (dy[mine] * normal[mine]).sum(0), dy[mine].sum(0, dtype=np.float64)
        np.testing.assert_allclose(work[g], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dw, (dy * normal).sum(0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(db, dy.sum(0, dtype=np.float64), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("target", [-1, 33, 2**40, -(2**40)])
@pytest.mark.parametrize("cols", [33, 1200])
def test_a_target_that_is_no_class_makes_the_loss_nan(target, cols, device_kernels):
    """Never a read out of bounds, and its gradient is NaN in its own row only."""
    logits = np.random.default_rng(5).standard_normal((4, cols)).astype(np.float32)
    targets = np.array([1, target if target != 33 else cols, -100, 2], np.int64)
    loss, count = np.zeros((), np.float32), np.zeros((), np.float32)
    lse, dlogits = np.zeros(4, np.float32), np.zeros_like(logits)
    options = (-100, 0.0, True)
    device_kernels.cross_entropy_forward(loss, count, lse, logits, targets, *options)
    assert np.isnan(loss)
    assert count == 3
    one = np.ones((), np.float32)
    device_kernels.cross_entropy_backward(dlogits, one, count, lse, logits, targets, *options)
    assert np.isnan(dlogits).all(axis=1).tolist() == [False, True, False, False]
    assert np.isnan(dlogits).any(axis=1).tolist() == [False, True, False, False]


@pytest.mark.gpu
def test_two_streams_do_not_share_their_partial_sums(on_gpu):
    import cupy

    from byhand import backend

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
