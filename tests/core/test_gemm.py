"""The matrix multiply of csrc/matmul/gemm.h at its boundaries: blocks, panels, tiles, threads.

The op suites compare linear, gelu_ffn and matmul with the reference; their sizes seldom reach a
second block of the inner dimension or a second panel.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest

import byhand
from byhand import _host, backend
from byhand.ops.precision import round_bf16

# (M, N, K): few rows, rows that read B in place, both packed; one block of K and several; ragged
# tiles in each direction; empty sums.
SHAPES = [
    (1, 70, 513),
    (5, 33, 31),
    (16, 40, 700),
    (29, 70, 1153),
    (113, 1, 64),
    (127, 131, 3),
    (64, 96, 1600),
    (300, 48, 65),
    (130, 200, 1030),
    (257, 67, 129),
    (3, 5, 0),
]
PRECISIONS = pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
FORMS = list(itertools.product([False, True], repeat=2))


@pytest.fixture
def keep_threads():
    before = byhand.get_num_threads()
    yield
    byhand.set_num_threads(before)


def operands(M, N, K, transpose_a, transpose_b):
    rng = np.random.default_rng(M + N + K)
    a = rng.standard_normal((K, M) if transpose_a else (M, K), dtype=np.float32)
    b = rng.standard_normal((N, K) if transpose_b else (K, N), dtype=np.float32)
    return a, b


def multiply(kernels, M, N, a, b, transpose_a, transpose_b, bf16):
    c = np.full((M, N), np.nan, np.float32)
    kernels.matmul_forward(c, a, b, transpose_a, transpose_b, bf16)
    return c


@pytest.fixture(params=list(backend.cpu_modules()))
def kernels(request):
    return backend.cpu_modules()[request.param]


@PRECISIONS
@pytest.mark.parametrize("form", FORMS, ids=["nn", "nt", "tn", "tt"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_against_float64(kernels, shape, form, bf16):
    M, N, K = shape
    a, b = operands(M, N, K, *form)
    factors = (round_bf16(x) if bf16 else x for x in (a, b))
    A, B = (
        x.astype(np.float64).T if t else x.astype(np.float64)
        for x, t in zip(factors, form, strict=True)
    )
    # The classical bound on a sum of K products, each rounded (Higham 2002, section 3.1).
    bound = (K + 2) * 2.0**-24 * (np.abs(A) @ np.abs(B))
    assert (np.abs(multiply(kernels, M, N, a, b, *form, bf16) - A @ B) <= bound).all()


@PRECISIONS
@pytest.mark.parametrize("form", FORMS, ids=["nn", "nt", "tn", "tt"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_same_bits_for_any_number_of_threads(kernels, keep_threads, shape, form, bf16):
    M, N, K = shape
    a, b = operands(M, N, K, *form)
    bits = set()
    for threads in (1, 2, 3, 7):
        byhand.set_num_threads(threads)
        bits.add(multiply(kernels, M, N, a, b, *form, bf16).tobytes())
    assert len(bits) == 1


@PRECISIONS
def test_gradients_are_added_in_the_same_bits_for_any_number_of_threads(
    kernels, keep_threads, bf16
):
    rng = np.random.default_rng(0)
    R, N, K = 1030, 131, 140
    dy = rng.standard_normal((R, N), dtype=np.float32)
    x = rng.standard_normal((R, K), dtype=np.float32)
    w = rng.standard_normal((N, K), dtype=np.float32)
    start = rng.standard_normal((N, K), dtype=np.float32), rng.standard_normal(N, dtype=np.float32)
    bits = set()
    for threads in (1, 2, 3, 7):
        byhand.set_num_threads(threads)
        dw, db = start[0].copy(), start[1].copy()
        kernels.linear_backward(None, dw, db, dy, x, w, bf16)
        bits.add(dw.tobytes() + db.tobytes())
    assert len(bits) == 1
    (d, y) = (round_bf16(dy), round_bf16(x)) if bf16 else (dy, x)
    np.testing.assert_allclose(dw, start[0] + d.T.astype(np.float64) @ y, rtol=0, atol=1e-3)
    np.testing.assert_allclose(db, start[1] + dy.sum(0, dtype=np.float64), rtol=0, atol=1e-3)


@PRECISIONS
def test_output_may_be_the_residual(kernels, bf16):
    rng = np.random.default_rng(0)
    R, N, K = (
        50,
        90,
        700,
    )  # two blocks of K: the residual must be added once, before it is overwritten
    x = rng.standard_normal((R, K), dtype=np.float32)
    w = rng.standard_normal((N, K), dtype=np.float32)
    b = rng.standard_normal(N, dtype=np.float32)
    add = rng.standard_normal((R, N), dtype=np.float32)
    apart = np.full((R, N), np.nan, np.float32)
    kernels.linear_forward(apart, x, w, b, add, bf16)
    within = add.copy()
    kernels.linear_forward(within, x, w, b, within, bf16)
    np.testing.assert_array_equal(within, apart)
    x, w = (round_bf16(x), round_bf16(w)) if bf16 else (x, w)
    exact = x.astype(np.float64) @ w.T + b + add
    np.testing.assert_allclose(apart, exact, rtol=0, atol=1e-3)


@pytest.mark.skipif("amx_bf16" not in _host.instruction_sets(), reason="this machine has no tiles")
def test_products_without_tile_registers():
    """The same tests where BYHAND_CPU_FEATURES leaves out AMX."""
    others = [name for name in _host.instruction_sets() if name != "amx_bf16"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "-k", "bf16", __file__],
        env={**os.environ, "BYHAND_CPU_FEATURES": ",".join(others)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout
