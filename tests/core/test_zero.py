"""Zeros for gradients: on all threads, past the caches where they are large."""

from __future__ import annotations

import numpy as np
import pytest

import byhand
from byhand import GPT, GPTConfig, backend
from byhand.backend import native


@pytest.fixture
def threads():
    before = byhand.get_num_threads()
    yield byhand.set_num_threads
    byhand.set_num_threads(before)


@pytest.mark.parametrize("name", backend.cpu_modules())
@pytest.mark.parametrize("cache", [0, 4096], ids=["in the caches", "past the caches"])
def test_zeros_are_written_and_nothing_beside_them(name, cache, threads):
    module = native.load(name)
    module.set_last_level_cache(cache)
    try:
        with backend.use_cpu(name):
            for size in (0, 1, 15, 1023, 16384, 16401, 3 * 16384, 100_003):
                for offset in (0, 1, 5, 16):
                    for n in (1, 2, 7):
                        threads(n)
                        memory = np.full(offset + size + 40, 7, np.float32)
                        backend.set_zero(memory[offset : offset + size])
                        assert (memory[offset : offset + size] == 0).all()
                        assert (memory[:offset] == 7).all()
                        assert (memory[offset + size :] == 7).all()
    finally:
        module.set_last_level_cache(0)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64])
def test_other_dtypes_and_strides(dtype):
    memory = np.full((5, 7), 3, dtype)
    backend.set_zero(memory)
    assert (memory == 0).all()
    floats = np.full((6, 8), 3, np.float32)
    backend.set_zero(floats[:, ::2])
    assert (floats[:, ::2] == 0).all()
    assert (floats[:, 1::2] == 3).all()


def test_read_only_memory_is_refused():
    array = np.ones(5, np.float32)
    array.flags.writeable = False
    with pytest.raises((ValueError, BufferError)):
        backend.set_zero(array)
    assert (array == 1).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_gradients_of_a_model(dtype):
    model = GPT(GPTConfig(11, 5, 8, 2, 1), seed=0).to(dtype=dtype)
    ids = np.arange(10).reshape(2, 5)
    model.loss(ids, ids)
    model.backward()
    assert np.any(model.storage.grads)
    model.zero_grad()
    assert not np.any(model.storage.grads)
