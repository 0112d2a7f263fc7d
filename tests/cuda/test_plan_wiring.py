"""A planned step gets the recorded places; one that differs from the recorded one is refused."""

from __future__ import annotations

from typing import Any

import pytest

from byhand.training.memory_plan import Plan, lay_out


@pytest.fixture
def plan(cupy: Any) -> Plan:
    """Of two arrays at the same time, and a third that takes the place of the first."""
    made = Plan()
    with made.record():
        one = cupy.empty(100, "float32")
        two = cupy.empty(200, "float32")
        del one
        three = cupy.empty(50, "float32")
    assert two.data.ptr != three.data.ptr
    return made


def test_the_places_of_the_plan_are_used(plan: Plan, cupy: Any):
    assert plan.nbytes == 512 + 1024  # multiples of 512 bytes
    block = cupy.empty(plan.nbytes, "uint8")
    for _ in range(2):
        with plan.replay(block):
            arrays = [cupy.empty(n, "float32") for n in (100, 200, 50)]
        assert [a.data.ptr - block.data.ptr for a in arrays] == [0, 512, 0]


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((100, 200), "the step made 2 allocations, and 3 when it was planned"),
        ((), "the step made 0 allocations, and 3 when it was planned"),
        ((100, 201), "allocation 1 of the step is of 804 bytes, and was 800 when it was planned"),
        ((100, 200, 50, 1), "allocation 3 of the step is of 4 bytes, and was none when it was"),
    ],
)
def test_another_step_is_refused(sizes: tuple[int, ...], words: str, plan: Plan, cupy: Any):
    def step() -> None:
        with plan.replay(cupy.empty(plan.nbytes, "uint8")):
            for size in sizes:
                cupy.empty(size, "float32")

    with pytest.raises(RuntimeError, match=words):
        step()


@pytest.mark.parametrize(
    ("sizes", "events", "offsets", "total"),
    [
        ([1], [0], [0], 512),
        ([512], [0], [0], 512),
        ([513], [0], [0], 1024),
        ([1, 1], [0, 1], [0, 512], 1024),
        ([1, 1], [0, ~0, 1], [0, 0], 512),
        ([1, 600, 1], [0, 1, ~0, 2], [0, 512, 0], 1536),
        ([1, 1, 600, 1], [0, 1, ~0, 2, 3], [0, 512, 1024, 0], 2048),
        ([0, 1], [0, 1], [0, 0], 512),
    ],
)
def test_an_allocation_takes_the_lowest_gap_that_is_large_enough(
    sizes: list[int], events: list[int], offsets: list[int], total: int
):
    assert lay_out(sizes, events) == (offsets, total)
