"""The schedules against their formulas and PyTorch's."""

from __future__ import annotations

import math
from typing import Any

import pytest

from byhand import optim


def of_pytorch(name: str, lr: float, steps: int, **settings: Any) -> list[float]:
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    schedule = getattr(torch.optim.lr_scheduler, name)(optimizer, **settings)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(rates) < steps:
            schedule.step()
    return rates


@pytest.mark.parametrize(("every", "factor"), [(1, 0.5), (7, 0.1), (100, 0.1), (3, 1.0), (4, 0.0)])
def test_step_decay(every, factor):
    schedule = optim.StepDecay(0.3, every, factor)
    theirs = of_pytorch("StepLR", 0.3, 40, step_size=every, gamma=factor)
    assert [schedule(n) for n in range(40)] == pytest.approx(theirs, rel=1e-12)
    assert optim.StepDecay(1.0, 10)(25) == pytest.approx(0.01)


@pytest.mark.parametrize("total", [1, 2, 3, 4, 10, 33, 100])
def test_one_cycle(total):
    schedule = optim.OneCycle(0.3, total)
    theirs = of_pytorch("OneCycleLR", 0.3, total, max_lr=0.3, total_steps=total)
    assert [schedule(n) for n in range(total)] == pytest.approx(theirs, rel=1e-9)
    assert schedule(total) == schedule(10 * total) == pytest.approx(0.3 / 25 / 1e4)


@pytest.mark.parametrize("total", [3, 20, 50])
@pytest.mark.parametrize("pct_start", [0.1, 0.5, 0.9])
def test_one_cycle_of_another_form(total, pct_start):
    how = {"pct_start": pct_start, "div_factor": 10.0, "final_div_factor": 100.0}
    schedule = optim.OneCycle(0.3, total, **how)
    theirs = of_pytorch("OneCycleLR", 0.3, total, max_lr=0.3, total_steps=total, **how)
    assert [schedule(n) for n in range(total)] == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize(("pct_start", "last"), [(0.0, 3e-6), (1.0, 0.3)])
def test_one_cycle_of_one_half_only(pct_start, last):
    schedule = optim.OneCycle(0.3, 10, pct_start, 10.0, 1e4)
    rates = [schedule(n) for n in range(10)]
    assert rates == sorted(rates, reverse=pct_start == 0)
    assert rates[-1] == pytest.approx(last)
    assert schedule(10) == pytest.approx(3e-6)


@pytest.mark.parametrize("warmup", [0, 1, 4, 4000])
def test_inverse_sqrt(warmup):
    """Vaswani et al., 2017, equation 3: dim^-0.5 min(n^-0.5, n warmup^-1.5), highest at warmup."""
    schedule = optim.InverseSqrt(0.7, warmup)
    most = max(warmup, 1)
    scale = 0.7 * most**0.5
    for n in (1, 2, 3, 4, 5, 100, 3999, 4000, 4001, 100_000):
        expected = scale * min(n**-0.5, n * most**-1.5)
        assert schedule(n - 1) == pytest.approx(expected, rel=1e-12)
    assert schedule(most - 1) == pytest.approx(0.7) == max(schedule(n) for n in range(5000))


def test_schedules_are_values():
    assert optim.StepDecay(0.1, 5) == optim.StepDecay(0.1, 5, 0.1)
    assert repr(optim.InverseSqrt(0.1, 5)) == "InverseSqrt(lr=0.1, warmup=5)"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optim.StepDecay(0.1, 0), "StepDecay: every must be a whole number >= 1, got 0"),
        (
            lambda: optim.StepDecay(0.1, 2.5),
            "StepDecay: every must be a whole number >= 1, got 2.5",
        ),
        (lambda: optim.StepDecay(-0.1, 3), "StepDecay: lr must be a finite number >= 0, got -0.1"),
        (
            lambda: optim.StepDecay(0.1, 3, -1),
            "StepDecay: factor must be a finite number >= 0, got -1",
        ),
        (lambda: optim.InverseSqrt(-1.0), "InverseSqrt: lr must be a finite number >= 0, got -1.0"),
        (
            lambda: optim.InverseSqrt(1.0, -1),
            "InverseSqrt: warmup must be a finite number >= 0, got -1",
        ),
        (lambda: optim.OneCycle(0.1, 0), "OneCycle: total must be a whole number >= 1, got 0"),
        (lambda: optim.OneCycle(0.1, "9"), "OneCycle: total must be a whole number >= 1, got '9'"),
        (
            lambda: optim.OneCycle(math.nan, 9),
            "OneCycle: max_lr must be a finite number >= 0, got nan",
        ),
        (lambda: optim.OneCycle(1, 9, 1.5), "OneCycle: pct_start must be at most 1, got 1.5"),
        (lambda: optim.OneCycle(1, 9, 0.3, 0), "OneCycle: div_factor must be above 0, got 0"),
        (
            lambda: optim.WarmupCosine(0.1, 0, 0, 0.0),
            "WarmupCosine: total must be a whole number >= 1, got 0",
        ),
    ],
)
def test_wrong_schedules_are_refused(make, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        make()
    assert str(caught.value) == message
