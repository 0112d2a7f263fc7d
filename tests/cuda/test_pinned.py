"""Batches are copied to the GPU through two pinned buffers, on the stand-in for cupy."""

from __future__ import annotations

import numpy as np
import pytest

from byhand.training import GraphStep
from byhand.training.pinned import PinnedCopies
from tests.cuda.cupy_double import Event, Unsafe
from tests.cuda.test_step import batches, made


def numbers(i: int) -> dict[str, np.ndarray]:
    return {"ids": np.arange(6).reshape(2, 3) + i, "mask": np.full(4, i % 2 == 0)}


def test_batches_arrive_and_the_callers_arrays_are_free_at_once(cupy):
    copies = PinnedCopies(numbers(0), cupy.zeros(1))
    addresses = {name: array.data.ptr for name, array in copies.arrays.items()}
    for i in range(5):
        batch = numbers(i)
        copies.copy(batch)
        for array in batch.values():
            array[...] = 0
        for name, expected in numbers(i).items():
            np.testing.assert_array_equal(copies.arrays[name].get(), expected)
            assert copies.arrays[name].dtype == expected.dtype
    assert {name: array.data.ptr for name, array in copies.arrays.items()} == addresses
    assert [len(memory) for memory in cupy.machine.pinned] == [48, 4, 48, 4]
    assert cupy.machine.event_waits == 3  # from the third batch on, for the one before the last


def test_a_buffer_is_not_overwritten_before_it_was_copied(cupy, monkeypatch):
    monkeypatch.setattr(Event, "synchronize", lambda self: None)
    copies = PinnedCopies(numbers(0), cupy.zeros(1))
    copies.copy(numbers(0))
    copies.copy(numbers(1))
    with pytest.raises(Unsafe, match="changed before it was copied"):
        copies.copy(numbers(2))


def test_one_buffer_would_wait_for_every_copy(cupy):
    """What the second buffer is for: the event of the last copy is not waited for."""
    copies = PinnedCopies(numbers(0), cupy.zeros(1))
    for i in range(4):
        copies.copy(numbers(i))
        assert len(cupy.machine.copying) == 2 * min(i + 1, 2)


def test_another_dtype_is_refused(cupy):
    copies = PinnedCopies(numbers(0), cupy.zeros(1))
    batch = numbers(1)
    batch["ids"] = batch["ids"].astype(np.int32)
    with pytest.raises(TypeError, match="int32"):
        copies.copy(batch)


@pytest.mark.parametrize("each", [1, 2])
def test_every_batch_of_a_step_is_copied_from_pinned_memory(each, cupy):
    step = GraphStep(*made("cuda"), clip_norm=0.5)
    for step_batches in batches(5, each):
        step(step_batches)
    assert len(cupy.machine.pinned) == 4  # ids and targets, two buffers each
    assert cupy.machine.event_waits == 5 * each - 2
    assert len(step.read()) == 5
