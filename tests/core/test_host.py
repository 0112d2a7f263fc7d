"""What the operations ask the module _host for at each call."""

import re

import numpy as np
import pytest

from byhand import _host


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
@pytest.mark.parametrize("shape", [(), (3,), (2, 5), (64, 46), (0, 7), (1, 2, 3, 4, 5, 6)])
def test_empty_gives_an_array_that_is_its_own(dtype, shape):
    """On both sides of the size from which the memory is the pool's."""
    first, second = _host.empty(shape, dtype), _host.empty(shape, np.dtype(dtype))
    assert first.shape == shape
    assert first.dtype == dtype
    assert first.flags.c_contiguous
    assert first.flags.writeable
    assert not np.shares_memory(first, second)
    first[...] = 1
    second[...] = 2
    assert (first == 1).all()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (((2, -1), np.float32), ValueError),
        (((1,) * 40, np.float32), ValueError),
        (((2**40, 2**40), np.float32), MemoryError),
        (((2,), "no dtype"), TypeError),
        (((2,),), TypeError),
    ],
)
def test_empty_refuses_what_is_no_shape_or_dtype(arguments, error):
    with pytest.raises(error):
        _host.empty(*arguments)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_all_within_looks_at_every_number(dtype):
    rng = np.random.default_rng(0)
    for shape in ((1,), (7,), (3, 50)):
        numbers = rng.integers(0, 9, shape).astype(dtype)
        assert _host.all_within(numbers, 0, 8)
        for at in np.ndindex(shape):
            for other in (-1, 9):
                wrong = numbers.copy()
                wrong[at] = other
                assert not _host.all_within(wrong, 0, 8)
    assert _host.all_within(np.empty(0, dtype), 0, 8)
    assert _host.all_within(np.array(8, dtype), 0, 8)


def test_all_within_is_false_for_what_it_does_not_read():
    ones = np.ones(8, np.float32)
    assert _host.all_within(ones, 0, np.inf)
    assert not _host.all_within(np.array([1, np.nan], np.float32), 0, np.inf)
    assert not _host.all_within(ones[::2], 0, 1)
    assert not _host.all_within(ones.astype(">f4"), 0, 1)
    assert not _host.all_within(ones.astype(np.float16), 0, 1)
    shifted = np.zeros(33, np.uint8)[1:].view(np.float64)
    assert shifted.flags.aligned or not _host.all_within(shifted, 0, 1)
    with pytest.raises(TypeError, match=re.escape("takes 3 arguments")):
        _host.all_within(ones)
