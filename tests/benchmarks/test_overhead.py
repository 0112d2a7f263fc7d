"""The share of a step outside kernels is computed from what a clock shows."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from bench import native, overhead
from byhand import backend
from byhand.ops import softmax


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time that only the tests advance; the kernel softmax_forward takes 4 seconds of it."""
    clock = Clock()
    monkeypatch.setattr(native, "_clock", lambda: clock.now)
    monkeypatch.setattr(overhead, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(backend.cpu(), "softmax_forward", lambda *arguments: clock.advance(4.0))
    return clock


def phases(clock: Clock) -> dict:
    """Python takes 10 of 30 seconds: 1, 2, 3 and 4 in the four phases."""

    def phase(seconds: float, kernels: int):
        def run() -> None:
            clock.advance(seconds)
            for _ in range(kernels):
                softmax.forward(np.zeros((2, 3), np.float32))

        return run

    work = {"zero_grad": (1, 0), "forward": (2, 2), "backward": (3, 3), "update": (4, 0)}
    return {name: phase(*found) for name, found in work.items()}


def test_the_time_outside_kernels(clock, monkeypatch):
    monkeypatch.setattr(overhead, "phases_of", lambda preset, precision: phases(clock))
    monkeypatch.setattr(overhead, "timer_cost", lambda: (0.0, 0.0))
    row = overhead.step("tiny", "float32", rounds=3)
    assert row["outside"] == pytest.approx(10 / 30, abs=1e-4)
    assert (row["ms"], row["outside_ms"], row["ms_without_timers"]) == (30e3, 10e3, 30e3)
    assert row["native_calls"] == 5
    outside = {name: phase["outside_ms"] for name, phase in row["phases"].items()}
    assert outside == {"zero_grad": 1e3, "forward": 2e3, "backward": 3e3, "update": 4e3}
    assert row["phases"]["backward"]["ms"] == 15e3


def test_the_cost_of_the_timer_is_subtracted(clock, monkeypatch):
    """Of half a second a call the timer counts a fifth as the kernel's."""
    monkeypatch.setattr(overhead, "phases_of", lambda preset, precision: phases(clock))
    monkeypatch.setattr(overhead, "timer_cost", lambda: (0.5, 0.1))
    row = overhead.step("tiny", "float32", rounds=3)
    assert row["ms"] == pytest.approx(1e3 * (30 - 5 * 0.5))
    assert row["outside_ms"] == pytest.approx(1e3 * (30 - 5 * 0.5 - (20 - 5 * 0.1)))


def test_a_step_without_native_calls_is_refused(clock, monkeypatch):
    """Kernels that are called in another way must not look like a step without kernels."""
    nothing = dict.fromkeys(overhead.PHASES, lambda: clock.advance(1.0))
    monkeypatch.setattr(overhead, "phases_of", lambda preset, precision: nothing)
    with pytest.raises(RuntimeError, match="no native kernel was called"):
        overhead.step("tiny", "float32", rounds=2)


def test_kernels_are_put_back():
    before, inside = backend.cpu().softmax_forward, []

    def fail() -> None:
        with native.replaced(lambda kernel: None):
            inside.append(backend.cpu().softmax_forward)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert inside == [None]
    assert backend.cpu().softmax_forward is before


def test_a_call_is_noted_with_its_arguments():
    calls: list[native.Call] = []
    x = np.random.default_rng(0).standard_normal((3, 5), dtype=np.float32)
    with native.listening(calls):
        y, _ = softmax.forward(x)
    (again,) = calls
    expected = y.copy()
    y[...] = np.nan
    again()
    np.testing.assert_array_equal(y, expected)


def test_the_cost_of_the_timer_is_measured():
    in_all, counted = native.timer_cost(calls=2000, rounds=5)
    assert 0 < in_all < 1e-4
    assert 0 <= counted < in_all


def test_a_real_step(capsys):
    """Of the model itself; nothing is asserted about speed."""
    row = overhead.step("tiny", "float32", rounds=2, warm_up=1)
    assert row["native_calls"] > 4 * 4
    assert 0 < row["outside"] < 1
    assert row["outside_ms"] == pytest.approx(row["outside"] * row["ms"], rel=0.5)
    overhead.print_step(row)
    assert "outside native kernels:" in capsys.readouterr().out
