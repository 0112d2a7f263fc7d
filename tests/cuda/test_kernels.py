"""Every CUDA kernel against the numpy reference, judged as the CPU's kernels are."""

from __future__ import annotations

import math

import numpy as np
import pytest

from byhand import backend
from byhand.ops import embedding
from tests import oracle
from tests.cuda import half
from tests.cuda.samples import MOST_ON_CPU, OPS, WIDE
from tests.kernel_case import Memory, bare_reference, run
from tests.ops.test_dropout import check_parts_of_offset

EVERY = [(op, sample) for op in OPS for sample in (*op.samples, op.big) if sample is not None]
HALF = [(op, s) for op, s in (*EVERY, *WIDE) if op.name in half.OPS]


def size_of(op, sample):
    """Elements of the largest array."""
    results = (math.prod(shape) for shape in op.result_shapes(sample).values())
    return max(sample.elements, max(results, default=0))


def on_both(cases):
    """On the GPU all of them; on the CPU, where a thread takes its turn, those of moderate size."""
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
@pytest.mark.parametrize("cols", [12, 40, 1500, 8500, 17000])
@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_norm_backward_with_any_number_of_groups(norm, groups, cols, device_kernels):
    """work[g] holds the sums of the rows of group g; groups without rows hold zeros."""
    rng = np.random.default_rng(cols + groups)
    rows, centred = 23, norm == "layernorm"
    x, dy = (rng.standard_normal((rows, cols)).astype(np.float32) for _ in range(2))
    w = rng.standard_normal(cols).astype(np.float32)
    mean = x.mean(-1) if centred else np.zeros(rows, np.float32)
    rstd = (1 / np.sqrt(((x - mean[:, None]) ** 2).mean(-1))).astype(np.float32)
    dx = np.full_like(x, np.nan)
    work = np.full((groups, 2, cols) if centred else (groups, cols), np.nan, np.float32)
    dw, db = np.zeros((2, cols), np.float32)
    if centred:
        device_kernels.layernorm_backward(dx, dw, db, work, dy, x, w, mean, rstd, None)
    else:
        device_kernels.rmsnorm_backward(dx, dw, work, dy, x, w, rstd, None)
    each = -(-rows // groups)
    normal = (x - mean[:, None]).astype(np.float64) * rstd[:, None]
    for g in range(groups):
        mine = slice(g * each, (g + 1) * each)
        parts = [(dy[mine] * normal[mine]).sum(0), dy[mine].sum(0, dtype=np.float64)]
        expected = parts if centred else parts[0]
        np.testing.assert_allclose(work[g], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dw, (dy * normal).sum(0), rtol=1e-4, atol=1e-4)
    if centred:
        np.testing.assert_allclose(db, dy.sum(0, dtype=np.float64), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cols", [40, 1000, 1500, 9000, 120000])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_the_norm_of_a_sum_is_that_of_the_sum_as_stored(norm, dtype, cols, device_kernels):
    """The fused residual gives the bits of an addition, rounded to storage, and a norm of it."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    rng = np.random.default_rng(cols)
    x, add = rng.standard_normal((2, 3, cols)).astype(dtype)
    w = rng.standard_normal(cols).astype(dtype)
    total = (x.astype(np.float32) + add.astype(np.float32)).astype(dtype)
    bias = [w] if norm == "layernorm" else []

    def forward(s, x, add):
        y = np.zeros_like(x)
        statistics = [np.zeros(3, np.float32) for _ in range(1 + len(bias))]
        kernel = getattr(device_kernels, f"{norm}_forward")
        kernel(y, s, *statistics, x, w, *bias, add, 1e-5)
        return [y, *statistics]

    s = np.zeros_like(x)
    fused, apart = forward(s, x, add), forward(None, total, None)
    assert s.tobytes() == total.tobytes()
    for one, other in zip(fused, apart, strict=True):
        assert one.tobytes() == other.tobytes()


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


@pytest.mark.parametrize("target", [-1, 33, 2**40, -(2**40)])
@pytest.mark.parametrize("cols", [33, 1200, 1203])
@pytest.mark.parametrize("shift", [0, 1])
def test_a_target_that_is_no_class_makes_its_gradient_in_place_nan(
    target, cols, shift, device_kernels
):
    """Rows begin at every distance from 16 bytes; the row before and the ones after stay whole."""
    memory = np.random.default_rng(5).standard_normal(6 * cols + shift).astype(np.float32)
    logits = memory[shift:].reshape(6, cols)
    targets = np.array([1, target if target != 33 else cols, -100, 2, 0, cols - 1], np.int64)
    (loss, count), lse = np.zeros((2, 1), np.float32), np.zeros(6, np.float32)
    loss, count, dloss = loss.reshape(()), count.reshape(()), np.ones((), np.float32)
    device_kernels.cross_entropy_gradient(loss, count, lse, logits, dloss, targets, -100, 0.1, True)
    assert np.isnan(loss)
    assert count == 5
    wrong = [False, True, False, False, False, False]
    assert np.isnan(logits).all(axis=1).tolist() == np.isnan(logits).any(axis=1).tolist() == wrong
    assert not logits[2].any()
    np.testing.assert_allclose(logits[[0, 3, 4, 5]].sum(axis=1), 0, atol=1e-6)


def test_the_gradient_needs_no_lse(device_kernels):
    for cols in (33, 1200):
        logits = np.random.default_rng(5).standard_normal((4, cols)).astype(np.float32)
        targets = np.array([1, 3, -100, 2], np.int64)
        results = []
        for lse in (np.zeros(4, np.float32), None):
            loss, count, dloss = (np.ones((), np.float32) for _ in range(3))
            mine = logits.copy()
            device_kernels.cross_entropy_gradient(
                loss, count, lse, mine, dloss, targets, -100, 0.1, True
            )
            results.append((loss.tobytes(), count.tobytes(), mine.tobytes()))
        assert results[0] == results[1]


@pytest.mark.parametrize("bad", [-1, 5, 2**40, -(2**40)])
@pytest.mark.parametrize("cols", [3, 8])
def test_an_id_that_is_none_gives_nan_and_gets_nothing(bad, cols, device_kernels):
    rng = np.random.default_rng(cols)
    w, dy = (rng.standard_normal((n, cols)).astype(np.float32) for n in (5, 70))
    ids = rng.integers(0, 5, 70)
    ids[[0, 13, 64, 69]] = bad
    valid = ids != bad
    y, dw = np.zeros_like(dy), np.zeros_like(w)
    device_kernels.embedding_forward(y, w, ids, None)
    assert np.isnan(y[~valid]).all()
    assert y[valid].tobytes() == w[ids[valid]].tobytes()
    work = np.zeros(embedding.room(70, cols), np.float32)
    device_kernels.embedding_backward(dw, work, dy, ids)
    expected = np.zeros(w.shape)
    np.add.at(expected, ids[valid], dy[valid])
    np.testing.assert_allclose(dw, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("classes", [8, 600])
def test_gradients_of_one_id_are_added_in_ascending_order(classes, device_kernels):
    """To the bit, for rows that fit in one piece; one pass of the sort, and two that share a digit
    of some ids.
    """
    rng = np.random.default_rng(9)
    ids = rng.choice([5, classes - 83 if classes > 83 else 7, 6], 31)
    dy = rng.standard_normal((31, 3)).astype(np.float32)
    dw = rng.standard_normal((classes, 3)).astype(np.float32)
    sums, expected = np.zeros_like(dw), dw.copy()
    for row, i in enumerate(ids):
        sums[i] += dy[row]
    expected += sums
    work = np.zeros(embedding.room(31, 3), np.float32)
    device_kernels.embedding_backward(dw, work, dy, ids)
    assert dw.tobytes() == expected.tobytes()


def test_the_scatter_says_when_it_has_too_little_room(device_kernels):
    dw, dy, ids = np.zeros((5, 3), np.float32), np.zeros((70, 3), np.float32), np.zeros(70, int)
    work = np.zeros(embedding.room(70, 3) - 1, np.float32)
    with pytest.raises(ValueError, match="embedding_backward: work is too small"):
        device_kernels.embedding_backward(dw, work, dy, ids)


@pytest.mark.parametrize("shift", [0, 1])
def test_dropout_keeps_what_the_cpu_keeps(shift, device_kernels):
    """To the bit, wherever the array begins and ends."""
    for n in (1, 7, 8, 9, 1000, 4097):
        x = np.random.default_rng(n).standard_normal(n + shift).astype(np.float32)[shift:]
        for p in (0.0, 0.25, 0.9):
            ours, theirs = np.empty_like(x), np.empty_like(x)
            device_kernels.dropout_forward(ours, x, None, p, 5, 11)
            backend.cpu().dropout_forward(theirs, x, None, p, 5, 11)
            assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize(("fixed", "moving"), [(5, 4), (10, -1)])
def test_the_offset_of_dropout_in_two_parts(fixed, moving, device_kernels):
    check_parts_of_offset(device_kernels, False, fixed, moving)


@pytest.mark.parametrize("block", [1, 7, 30, 1000])
def test_gelu_ffn_in_blocks_of_any_size(block, device_kernels):
    """h and dpre hold some rows of the hidden layer at a time."""
    rng = np.random.default_rng(block)
    rows, c, f = 30, 24, 40
    x, dy = (rng.standard_normal((rows, c)).astype(np.float32) for _ in range(2))
    w1, w2 = (rng.standard_normal(shape).astype(np.float32) for shape in ((f, c), (c, f)))
    b1, b2 = rng.standard_normal(f).astype(np.float32), rng.standard_normal(c).astype(np.float32)

    def both(kernels, dtype):
        a = [array.astype(dtype) for array in (x, w1, b1, w2, b2)]
        y, pre = np.full((rows, c), np.nan, dtype), np.full((rows, f), np.nan, dtype)
        h, dpre = (np.full((block, f), np.nan, dtype) for _ in range(2))
        kernels.gelu_ffn_forward(y, pre, h, *a, None, True, False)
        dx = np.full_like(y, np.nan)
        into = [np.ones_like(array) for array in a[1:]]
        rest = (dy.astype(dtype), a[0], pre, a[1], a[3], True, False)
        kernels.gelu_ffn_backward(dx, h, dpre, *into, *rest)
        return [y, pre, dx, *into]

    exact = both(backend.reference, np.float64)
    for got, wanted in zip(both(device_kernels, np.float32), exact, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max(), rtol=0)


@pytest.mark.parametrize("transposed", [False, True])
def test_pieces_of_a_depth_are_added_in_their_order(transposed, device_kernels):
    """1 is lost beside 2^30, unless that is gone before."""
    depth = 3 * 512  # of one tile: three pieces
    b = np.ones((depth, 20), np.float32)
    for values, expected in (((1, 2**30, -(2**30)), 0), ((2**30, -(2**30), 1), 1)):
        a, c = np.zeros((17, depth), np.float32), np.full((17, 20), np.nan, np.float32)
        a[:, ::512] = values
        a = a.T.copy() if transposed else a
        device_kernels.matmul_forward(c, a, b, transposed, False, False)
        assert (c == expected).all()


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
