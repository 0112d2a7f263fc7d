"""The comparison of two installations: pairs, ratios, and sides that cannot be compared."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import byhand
from bench.models import compare_steps

INSTALLED = str(Path(byhand.__file__).parents[1])


def test_sides_take_turns_and_each_begins_in_half_of_the_pairs():
    order = []

    def side(name: str, seconds: list[float]):
        def steps(count: int) -> list[float]:
            order.append(name)
            return seconds[:count]

        return steps

    old, new = side("old", [1.0, 2.0, 9.0]), side("new", [3.0, 4.0, 5.0])
    assert compare_steps.in_pairs(old, new, 3, steps=3) == [(2.0, 4.0)] * 3
    assert order == ["old", "new", "new", "old", "old", "new"]


def test_ratios_are_those_of_the_pairs():
    """In a pair, both sides are disturbed alike; the medians of the times mean less."""
    pairs = [(1.0, 0.5), (100.0, 50.0), (10.0, 6.0), (2.0, 1.0), (3.0, 1.5)]
    row = compare_steps.summary(pairs)
    assert row["ratio"] == 0.5
    assert row["interval"] == [0.5, 0.6]
    assert (row["old_ms"], row["new_ms"], row["pairs"]) == (3000.0, 1500.0, 5)


def test_the_interval_covers_the_true_median_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        low, high = compare_steps.interval(list(rng.lognormal(0.0, 0.1, 30)), samples=1000)
        covered += low <= 1.0 <= high
    assert 180 <= covered <= 199  # of 200, at 95 %: 190, with a standard deviation of 3


@pytest.mark.parametrize(
    ("bounds", "sentence"),
    [
        ((0.9, 0.99), "new is faster"),
        ((1.01, 1.2), "new is slower"),
        ((0.99, 1.01), "no difference is shown"),
        ((1.0, 1.0), "no difference is shown"),
    ],
)
def test_the_verdict_needs_the_whole_interval_on_one_side(bounds, sentence):
    assert compare_steps.verdict(*bounds) == sentence


def test_two_processes(capsys):
    """The installation beside itself; nothing is asserted about the ratio."""
    command = [sys.executable, sys.executable, "--old-path", INSTALLED, "--new-path", INSTALLED]
    command += ["--pairs", "2", "--steps", "1", "--threads", "1"]
    assert compare_steps.main([*command, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["threads"] == 1
    assert row["cpu_backend"] == row["old"]["cpu_backend"] == row["new"]["cpu_backend"]
    assert row["old"]["loss"] == row["new"]["loss"] == pytest.approx(np.log(65), abs=0.5)
    assert row["ratio"] > 0
    text = compare_steps.report({**row, "new": {**row["new"], "loss": 1.5}})
    assert "2 pairs of 1 steps" in text
    assert "the first losses differ" in text


def test_unlike_sides_are_refused(monkeypatch, capsys):
    closed = []

    def side(name, python, path, settings):
        facts = {"cpu_backend": "cpu_avx2", "threads": 2 if name == "old" else 4}
        return SimpleNamespace(facts=facts, close=lambda: closed.append(name))

    monkeypatch.setattr(compare_steps, "Side", side)
    assert compare_steps.main(["a", "b"]) == 1
    expected = "error: the two sides differ in the number of threads: old 2, new 4\n"
    assert capsys.readouterr().err == expected
    assert closed == ["new", "old"]


@pytest.mark.parametrize(
    ("code", "status"), [("import sys; sys.exit(3)", 3), ("print('{}'); input(); exit(4)", 4)]
)
def test_a_side_that_ends_is_named(monkeypatch, tmp_path, code, status):
    worker = tmp_path / "worker.py"
    worker.write_text(code)
    monkeypatch.setattr(compare_steps, "WORKER", worker)

    def run() -> None:
        side = compare_steps.Side("new", sys.executable, None, {})
        side.steps(1)

    with pytest.raises(compare_steps.Failed, match=rf"the new side, .*, ended with .* {status}$"):
        run()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["/nowhere/python", sys.executable], "the old interpreter /nowhere/python cannot be run"),
        ([sys.executable, "b", "--old-path", "/nowhere"], "--old-path /nowhere has no folder"),
    ],
)
def test_a_side_that_cannot_start_is_named(arguments, sentence, capsys):
    assert compare_steps.main(arguments) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("number", ["0", "-1", "two", "1.5"])
def test_a_number_of_pairs_must_be_positive(number, capsys):
    with pytest.raises(SystemExit):
        compare_steps.main(["a", "b", f"--pairs={number}"])
    assert "must be an integer of at least 1" in capsys.readouterr().err
