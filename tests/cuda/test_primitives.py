"""The primitives of cuda/core/cuda.cuh, each compared with numpy, on the CPU and on a GPU if there
is one.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.cuda import compile

ml_dtypes = pytest.importorskip("ml_dtypes")
BF16 = np.dtype(ml_dtypes.bfloat16)
SOURCE = "primitives"


@pytest.fixture
def kernels(primitives):
    return primitives


def normal(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def integers(n, high=100):
    return np.random.default_rng(n).integers(0, high, n).astype(np.int32)


def test_mma_bf16(kernels):
    d, a, b = normal(16, 8), normal(16, 16, dtype=BF16), normal(16, 8, dtype=BF16)
    exact = d + a.astype(np.float64) @ b.astype(np.float64)
    kernels.mma_bf16(d, a, b)
    np.testing.assert_allclose(d, exact, rtol=1e-6, atol=1e-5)


def test_mma_tf32(kernels):
    d, a, b = normal(16, 8), normal(16, 8), normal(8, 8)
    exact = d + tf32(a).astype(np.float64) @ tf32(b)
    kernels.mma_tf32(d, a, b)
    np.testing.assert_allclose(d, exact, rtol=1e-6, atol=1e-5)
    assert np.abs(exact - (d + a @ b)).max() > 1e-4  # tf32 is coarser than float32


@pytest.mark.parametrize("dtype", [BF16, np.dtype(np.float32)], ids=str)
def test_tensor_cores_truncate(dtype, cache_dir):
    """On the CPU only: GPUs differ in what they do with the bits below the 24th."""
    kernels = compile.Library(compile.on_host(SOURCE, cache_dir))
    product, depth = (kernels.mma_bf16, 16) if dtype == BF16 else (kernels.mma_tf32, 8)

    def sums(first, each):
        d, a = np.full((16, 8), first, np.float32), np.full((16, depth), each, dtype)
        product(d, a, np.ones((16, 8) if dtype == BF16 else (8, 8), dtype))
        assert (d == d[0, 0]).all() or np.isnan(d).all()
        return float(d[0, 0])

    # In bfloat16 all products are added at once, in tf32 half of them.
    group, unit = (depth if dtype == BF16 else depth // 2), 2.0**-23
    kernels.schedule("forward late")
    assert sums(1, unit / 2) == sums(1, -unit / 2) == 1  # every product is truncated to 0
    assert sums(1, unit) == 1 + depth * unit
    # 1.5 units become 1; after the first group the sum is below 1, and its unit is half as large.
    assert sums(-1, 1.5 * unit) == -1 + (group + 1.5 * (depth - group)) * unit
    # An odd sum of 25 bits is truncated; then the unit is 2, and every product is.
    assert sums(2.0**24 - 1, 1) == 2.0**24 + group - 2
    assert sums(0, 0) == 0
    assert sums(1, np.inf) == sums(np.inf, 1) == np.inf
    assert np.isnan([sums(np.nan, 1), sums(1, np.nan), sums(-np.inf, np.inf)]).all()
    kernels.schedule("forward late nearest")
    assert sums(1, unit / 2) == 1 + depth * unit / 2
    assert sums(-1, 1.5 * unit) == -1 + 1.5 * depth * unit
    kernels.schedule("forward")


@pytest.mark.parametrize("k", [8, 32, 40, 128])
def test_a_small_gemm(kernels, k):
    """cp.async, ldmatrix with and without transpose, mma and dynamic shared memory together."""
    a, b = normal(64, k, dtype=BF16), normal(k, 64, dtype=BF16, seed=1)
    d = np.full((64, 64), np.nan, np.float32)
    kernels.gemm(d, a, b, k)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    np.testing.assert_allclose(d, exact, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("matrices", [2, 4])
def test_ldmatrix(kernels, matrices, transpose):
    m = np.arange(matrices * 64, dtype=np.uint16).reshape(matrices, 8, 8)
    r = np.zeros((32, matrices, 2), np.uint16)
    kernels.ldmatrix(r, m, matrices, int(transpose))
    expected = m.transpose(0, 2, 1) if transpose else m
    # lane 4 i + j holds elements 2 j and 2 j + 1 of row i of each matrix
    np.testing.assert_array_equal(r, expected.reshape(matrices, 32, 2).transpose(1, 0, 2))


@pytest.mark.parametrize("rounds", [1, 2, 3, 8])
def test_asynchronous_copies(kernels, rounds):
    x, whole = normal(rounds, 256), np.arange(rounds) % 3 != 1
    y = np.full_like(x, np.nan)
    kernels.copy(y, x, whole, rounds)
    np.testing.assert_array_equal(y, np.where(whole[:, None], x, 0))


LANES = ("shuffle", "shuffle_xor", "shuffle_down", "where", "any", "all", "match", "halves")


def lanes(name, x, n):
    """The result of the primitive in each lane; a row of x is a warp."""
    lane = np.arange(32)
    bits = 1 << lane.astype(np.int64)

    def word(where):
        return (where * bits).sum(-1)[:, None]

    if name == "shuffle":
        return x[:, (lane + n) % 32]
    if name == "shuffle_xor":
        return x[:, lane ^ n]
    if name == "shuffle_down":
        return np.where(lane + n < 32, x[:, np.minimum(lane + n, 31)], x)
    if name == "where":
        return word(x > n)
    if name == "any":
        return (x > n).any(-1)[:, None]
    if name == "all":
        return (x > n).all(-1)[:, None]
    if name == "match":
        return ((x[:, :, None] % 8 == x[:, None, :] % 8) * bits).sum(-1)
    return np.where(lane < 16, x[:, lane ^ n], word((x > n) & (lane >= 16)))


@pytest.mark.parametrize("name", LANES)
@pytest.mark.parametrize(("n", "warps"), [(1, 1), (7, 3), (15, 2)])
def test_lanes(kernels, name, n, warps):
    x = integers(2 * warps * 32)
    y = np.full_like(x, -7)
    kernels.lanes(y, x, LANES.index(name), n, warps)
    rows = x.reshape(-1, 32)
    expected = np.broadcast_to(lanes(name, rows, n), rows.shape).astype(np.int64)
    np.testing.assert_array_equal(y.reshape(-1, 32), expected.astype(np.uint32).view(np.int32))


@pytest.mark.parametrize("rounds", [1, 2, 3, 9])
def test_named_barriers(kernels, rounds):
    x = normal(rounds, 64)
    y = np.full_like(x, np.nan)
    kernels.pipeline(y, x, rounds)
    np.testing.assert_array_equal(y, x + x[:, ::-1])


@pytest.mark.parametrize(
    ("grid", "block"),
    [((1, 1, 1), (1, 1, 1)), ((5, 3, 2), (7, 4, 3)), ((2, 1, 1), (1024, 1, 1)),
     ((1, 1, 3), (1, 33, 2)), ((1000, 1, 1), (1, 1, 1))],
)  # fmt: skip
def test_every_thread_of_every_block_runs_once(kernels, grid, block):
    y = np.zeros(int(np.prod(grid) * np.prod(block)), np.int32)
    kernels.places(y, frozen(*grid), frozen(*block), 0)
    np.testing.assert_array_equal(y, np.arange(y.size) + 1)


def frozen(*values):
    array = np.array(values, np.uint32)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(("name", "dtype"), [("int", np.int32), ("long", np.uint64)])
def test_atomics(kernels, name, dtype):
    x = integers(1000).astype(dtype)
    total, most, locked = np.zeros((3, 1), dtype)
    getattr(kernels, f"atomics_{name}")(total, most, locked, x, x.size)
    assert (total, most, locked) == (x.sum(), x.max(), 2 * x.sum())


def test_atomic_add_of_floats(kernels):
    x, total = integers(1000).astype(np.float32), np.zeros(1, np.float32)
    kernels.atomic_float(total, x, x.size)
    assert total == x.sum()


def tf32(x):
    bits = x.view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def test_numbers(kernels):
    ties = np.array([0x3F808000, 0x3F818000, 0xBF808000, 0x3F801000], np.uint32).view(np.float32)
    special = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 3e38], np.float32)
    x = np.concatenate([5 * normal(600), ties, special])
    n = x.size
    exp2s, exps, halves = np.zeros_like(x), np.zeros_like(x), np.zeros(n, BF16)
    pairs, tf32s = np.zeros((n, 2), BF16), np.zeros_like(x)
    kernels.numbers(exp2s, exps, halves, pairs, tf32s, x, n)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(exp2s, np.exp2(x.astype(np.float64)), rtol=3e-7)
        np.testing.assert_allclose(exps, np.exp(x.astype(np.float64)), rtol=3e-6)
        rounded = x.astype(BF16)
    np.testing.assert_array_equal(np.isnan(halves), np.isnan(x))
    number = ~np.isnan(x)
    np.testing.assert_array_equal(halves[number].view(np.uint16), rounded[number].view(np.uint16))
    np.testing.assert_array_equal(pairs[:, 0].view(np.uint16), halves.view(np.uint16))
    np.testing.assert_array_equal(pairs[::-1, 1].view(np.uint16), halves.view(np.uint16))
    finite = np.isfinite(x)
    np.testing.assert_array_equal(tf32s[finite], tf32(x[finite]))


def test_nvcc_takes_the_same_file(cache_dir):
    assert compile.with_nvcc(SOURCE, cache_dir, library=False).exists()
