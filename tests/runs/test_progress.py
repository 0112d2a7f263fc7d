"""The bar on a terminal, and the lines elsewhere."""

from __future__ import annotations

import io
import re
import sys
from typing import Any

import pytest

from byhand.runs import progress
from byhand.runs.progress import Display, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """`time.monotonic` that tests move forward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    return Clock(monkeypatch)


def trained(clock: Clock, steps: int, seconds: float, total: int = 1000) -> None:
    """Shows steps of `seconds` each."""
    with Display("token") as display:
        for step in range(1, steps + 1):
            clock.now += seconds
            display.step(step, total, 2.5, 300, seconds)


def words(output: str) -> str:
    """The output without control sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output)


def test_without_a_terminal_there_is_a_line_every_ten_seconds(
    clock: Clock, capsys: pytest.CaptureFixture[str]
):
    trained(clock, 70, 0.5)
    assert capsys.readouterr().out.splitlines() == [
        "step 20 of 1000: loss 2.5000, 600 tokens/s, 8 min 10 s left",
        "step 40 of 1000: loss 2.5000, 600 tokens/s, 8 min 0 s left",
        "step 60 of 1000: loss 2.5000, 600 tokens/s, 7 min 50 s left",
    ]


@pytest.mark.parametrize(
    "setting", [("FORCE_COLOR", "1"), ("TTY_COMPATIBLE", "1"), ("TTY_INTERACTIVE", "1")]
)
def test_a_file_gets_no_bar_whatever_the_environment_says(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch, setting: tuple[str, str]
):
    monkeypatch.setenv(*setting)
    trained(clock, 70, 0.5)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert len(out.splitlines()) == 3


@pytest.mark.parametrize("columns", [40, 50, 60, 80, 120])
def test_every_terminal_shows_the_step_and_the_time_left(clock: Clock, monkeypatch, columns: int):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    trained(clock, 123, 0.5, 12345)
    *_, last = (line for line in words(terminal.getvalue()).replace("\r", "\n").split("\n") if line)
    assert len(last) <= columns
    assert "step 123/12345" in last
    assert "1 h 41 min left" in last
    assert ("━" in last) == (columns >= 50)
    assert ("loss 2.5" in last) == (columns >= 60)
    assert ("600 tokens/s" in last) == (columns >= 80)


def test_lines_are_printed_whatever_the_environment_says_of_columns(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch
):
    for columns in ("0", "1", "-5", "many"):
        monkeypatch.setenv("COLUMNS", columns)
        Display().say("a line of text")
        assert capsys.readouterr().out == "a line of text\n"


def test_an_evaluation_has_a_bar_of_its_own(clock: Clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    with Display() as display:
        for i, _ in enumerate(display.evaluating("abcdefgh", 8)):
            assert i < 2 or f"evaluating {i}/8" in words(terminal.getvalue())
            clock.now += 60
    assert "evaluating 6/8" in words(terminal.getvalue())
    assert "2 min 0 s left" in words(terminal.getvalue())


@pytest.mark.parametrize(
    ("total", "line"),
    [(8, "evaluating: batch 6 of 8: 24 s left"), (None, "evaluating: batch 6")],
)
def test_an_evaluation_without_a_terminal(
    clock: Clock, capsys: pytest.CaptureFixture[str], total: Any, line: str
):
    with Display() as display:
        for _ in display.evaluating(range(8), total):
            clock.now += 12
    assert capsys.readouterr().out.splitlines()[5] == line


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), OSError(28, "full"), None])
@pytest.mark.parametrize("at_a_terminal", [False, True])
def test_a_failing_output_is_kept_and_nothing_is_written_after_it(
    clock: Clock, monkeypatch, error: OSError | None, at_a_terminal: bool
):
    class Failing(Terminal if at_a_terminal else io.StringIO):  # type: ignore[misc]
        calls = 0

        def write(self, text: str) -> int:
            Failing.calls += 1
            if error is not None:
                raise error
            return super().write(text)

    stream = Failing()
    if error is None:
        stream.close()  # writing to it is a ValueError
    monkeypatch.setattr(sys, "stdout", stream)
    trained(clock, 50, 0.5)
    with Display() as display:
        for line in ("one", "two"):
            display.say(line)
            assert display.error is error or isinstance(display.error, ValueError)
    assert Failing.calls <= 4


def test_no_thread_is_started(clock: Clock, monkeypatch):
    """A thread may be refused, and the bar is no reason to fail."""

    def refused(thread: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", refused)
    monkeypatch.setattr(sys, "stdout", Terminal())
    trained(clock, 50, 0.5)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_a_duration_in_words(seconds: float, shown: str):
    assert duration(seconds) == shown
