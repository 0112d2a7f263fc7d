"""The probes compute what their contracts say, so that the operations counted are those timed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from byhand import _host, backend, roofline

SIZES = (0, 1, 15, 16, 17, 193, 16385, 70001)


@pytest.fixture(params=list(backend.cpu_modules()))
def kernels(request):
    with backend.use_cpu(request.param) as kernels:
        yield kernels


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (3, 193), (2, 400)])
@pytest.mark.parametrize("rounds", [0, 1, 7])
def test_every_element_is_a_chain_of_multiply_adds(kernels, shape, rounds):
    y = floats(*shape)
    expected = y.astype(np.float64)
    for _ in range(rounds):
        expected = expected * 0.75 - 0.3
    kernels.multiply_add_probe(y, 0.75, -0.3, rounds)
    np.testing.assert_allclose(y, expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize("shape", [(1, 1), (3, 193)])
@pytest.mark.parametrize("rounds", [0, 1, 7])
def test_every_element_is_a_chain_of_dot_products(kernels, shape, rounds):
    if not hasattr(kernels, "bf16_dot_probe"):
        pytest.skip(f"{kernels.name} has no bfloat16 instructions")
    y = floats(*shape)
    expected = y.astype(np.float64) + rounds * (0.75**2 + 0.3125**2)  # exact in bfloat16
    kernels.bf16_dot_probe(y, 0.75, 0.3125, rounds)
    np.testing.assert_allclose(y, expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize("shape", [(1, 1), (3, 1300)])
@pytest.mark.parametrize("rounds", [0, 1, 7])
def test_every_element_is_a_chain_of_products_of_tiles(kernels, shape, rounds):
    if not hasattr(kernels, "bf16_tile_probe"):
        pytest.skip(f"{kernels.name} has no tile registers here")
    y = floats(*shape)
    expected = y.astype(np.float64) + 16 * rounds * (0.75**2 + 0.3125**2)
    kernels.bf16_tile_probe(y, 0.75, 0.3125, rounds)
    np.testing.assert_allclose(y, expected, rtol=0, atol=7 * 16 * 4e-6)  # a rounding each


def test_tiles_are_the_bf16_roofline_where_they_are_used():
    used = "amx_bf16" in _host.instruction_sets() and backend.cpu().name == "cpu_avx512bf16"
    assert hasattr(backend.cpu(), "bf16_tile_probe") == used
    if used:
        assert roofline.bf16_products(1e-4).amount % (64 * 1024) == 0


@pytest.mark.parametrize("size", SIZES)
def test_the_streams_move_every_element(kernels, size):
    a, b = floats(size), floats(size + 1)[1:]  # the second starts between two vectors
    y = np.full(size + 1, np.nan, np.float32)
    kernels.copy_probe(y[:-1], a)
    np.testing.assert_array_equal(y[:-1], a)
    kernels.triad_probe(y[:-1], a, b, 1.5)
    np.testing.assert_allclose(y[:-1], a + 1.5 * b, rtol=0, atol=1e-6)
    kernels.triad_probe(a, a, b, 1.5)
    np.testing.assert_array_equal(a, y[:-1])
    assert np.isnan(y[-1])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("slices", [1, 7, 64])
def test_reading_sums_equal_slices(kernels, size, slices):
    x = floats(size)
    sums = np.full(slices, np.nan, np.float32)
    kernels.read_probe(sums, x)
    borders = [size * g // slices for g in range(slices + 1)]
    expected = [x[i:j].sum(dtype=np.float64) for i, j in itertools.pairwise(borders)]
    np.testing.assert_allclose(sums, expected, rtol=0, atol=2e-3)


def test_the_roofline_is_that_of_the_back_end_in_use(kernels):
    found = roofline.measure(array_bytes=1 << 20, runs=2)
    assert found.backend == kernels.name
    assert found.threads == backend.get_num_threads()
    assert min(found.gflops, found.copy, found.read, found.triad, found.update) > 0
    assert (found.bf16_gflops is not None) == hasattr(kernels, "bf16_dot_probe")
    assert found.array_bytes == 1 << 20
