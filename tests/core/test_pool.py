"""The caching allocator that activations come from."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from byhand import GPT, GPTConfig, _host, backend, optim

LIKE = np.zeros(0, np.float32)
BIG = (300, 1000)  # smaller arrays come from numpy's own allocator


def test_a_freed_block_is_used_again():
    a = backend.empty(BIG, LIKE)
    address = a.ctypes.data
    del a
    assert backend.empty(BIG, LIKE).ctypes.data == address


def test_a_view_keeps_the_block_alive():
    a = backend.empty(BIG, LIKE)
    a[...] = 3.0
    view = a[10:20]
    address = a.ctypes.data
    del a
    other = backend.empty(BIG, LIKE)
    other[...] = 4.0
    assert other.ctypes.data != address
    assert (view == 3.0).all()


@pytest.mark.parametrize("shape", [(5000,), (1, 4097), (3, 700, 2), (2**20 + 3,)])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_arrays_are_aligned_contiguous_and_writable(shape, dtype):
    a = backend.empty(shape, LIKE, dtype)
    assert a.shape == shape
    assert a.dtype == dtype
    assert a.ctypes.data % 64 == 0
    assert a.flags.c_contiguous
    assert a.flags.writeable
    a[...] = 1


@pytest.mark.parametrize("shape", [(0, 5), (), (0,), (3, 0, 4)])
def test_empty_and_scalar_shapes(shape):
    assert backend.empty(shape, LIKE).shape == shape
    assert _host.empty(shape, np.dtype(np.float32)).shape == shape


def test_sizes_that_overflow_are_a_memory_error():
    with pytest.raises(MemoryError):
        _host.empty((2**40, 2**40), np.dtype(np.float32))
    with pytest.raises((MemoryError, ValueError)):
        _host.empty((2**62,), np.dtype(np.float32))
    with pytest.raises(ValueError, match="negative"):
        _host.empty((-1, 4), np.dtype(np.float32))


def test_statistics_add_up_and_trim_gives_back():
    gc.collect()
    before = _host.pool_stats()["in_use"]
    a = backend.empty(BIG, LIKE)
    grown = _host.pool_stats()["in_use"] - before
    assert a.nbytes <= grown <= a.nbytes * 9 / 8 + 64
    del a
    assert _host.pool_stats()["in_use"] == before
    assert _host.pool_stats()["cached"] >= grown
    _host.pool_trim()
    assert _host.pool_stats()["cached"] == 0


def test_training_takes_no_new_memory_after_the_first_steps():
    model = GPT(GPTConfig(65, 64, 128, 4, 2, dropout=0.1), seed=0)
    optimizer = optim.AdamW(model)
    rng = np.random.default_rng(0)

    def step() -> None:
        ids = rng.integers(0, 65, (2, 8, 64))
        model.zero_grad()
        model.loss(ids[0], ids[1])
        model.backward()
        optimizer.step(clip_norm=1.0)

    for _ in range(3):
        step()
    before = _host.pool_stats()
    for _ in range(20):
        step()
    after = _host.pool_stats()
    assert after["in_use"] == before["in_use"]
    assert after["in_use"] + after["cached"] == before["in_use"] + before["cached"]
