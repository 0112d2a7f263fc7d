"""Output while a model trains: lines of text and, on a terminal, a progress bar below them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

Item = TypeVar("Item")

_LINE_EVERY = 10.0  # seconds between two lines of progress where there is no bar
_CENTURY = 3.2e9  # in seconds
_BAR_EVERY = 0.25  # seconds between two drawings of the bar

# The narrowest terminals, in columns, on which these parts of the bar are shown. The step and the
# time left are always shown.
_WIDTH_FOR_BAR = 48
_WIDTH_FOR_LOSS = 60
_WIDTH_FOR_SPEED = 80


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise  # the error: rich's own method ends the process


class _FromWidth(ProgressColumn):
    """A column that is empty on terminals of fewer than `least` columns."""

    def __init__(self, column: ProgressColumn, console: Console, least: int) -> None:
        super().__init__(column.get_table_column())
        self._column = column
        self._console = console
        self._least = least

    def render(self, task: Task) -> RenderableType:
        return self._column.render(task) if self._console.width >= self._least else Text()


class Display:
    """Prints lines, and shows a bar with the loss, the speed and the time left.

    If the output is not a terminal (a file, a pipe) there is a line with the same numbers every ten
    seconds instead of the bar.

    Attributes:
        error: the first error of the output (a closed pipe, a full disk), after which nothing more
            is written; None if there was none.

    Args:
        unit: what the speed counts: "token", "example", "pair".
        stderr: write to stderr, for a command whose stdout is its result.
    """

    def __init__(self, unit: str = "token", stderr: bool = False) -> None:
        console = _Console(
            stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True
        )
        self._console = console
        if console.width < 1:
            console.width = 80  # COLUMNS=0; rich would print nothing
        # FORCE_COLOR makes rich take any output for a terminal; a file gets no bar all the same.
        file = console.file
        self._has_bar = bool(console.is_interactive and hasattr(file, "isatty") and file.isatty())
        # Drawn by the calling thread: a thread of its own may be refused (a limit on processes).
        self._progress = Progress(
            TextColumn("{task.fields[what]} {task.fields[count]}"),
            _FromWidth(BarColumn(bar_width=None), console, _WIDTH_FOR_BAR),
            _FromWidth(TextColumn("{task.fields[loss]}"), console, _WIDTH_FOR_LOSS),
            _FromWidth(TextColumn("{task.fields[speed]}"), console, _WIDTH_FOR_SPEED),
            TextColumn("{task.fields[left]}"),
            console=console,
            auto_refresh=False,
            transient=True,
            disable=not self._has_bar,
        )
        self._task = self._progress.add_task(
            "", visible=False, what="", count="", loss="", speed="", left=""
        )
        self._unit = unit
        self._shown = time.monotonic()
        self._began: tuple[int, float] | None = None  # the first step shown, and when it began
        self.loss: float | None = None  # smoothed
        self.speed: float | None = None  # units per second, smoothed
        self.error: OSError | ValueError | None = None

    def __enter__(self) -> Display:
        self._shown = time.monotonic()
        self._guarded(self._progress.start)
        return self

    def __exit__(self, *error: object) -> None:
        self._guarded(self._progress.stop)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._guarded(lambda: self._console.print(text))

    def step(self, step: int, steps: int, loss: float, units: int, seconds: float) -> None:
        """Show that `step` of `steps` is done, which took `seconds` for `units` tokens (or
        examples, or pairs).
        """
        self.loss = _smooth(self.loss, loss)
        self.speed = _smooth(self.speed, units / max(seconds, 1e-9))
        now = time.monotonic()
        if self._began is None:
            self._began = step - 1, now - seconds
        first, began = self._began
        self._show(
            "step",
            step,
            steps,
            _time_left(now - began, step - first, steps - step),
            f"loss {self.loss:.4f}",
            f"{self.speed:,.0f} {self._unit}s/s",
        )

    def evaluating(self, batches: Iterable[Item], total: int | None = None) -> Iterator[Item]:
        """The same batches; shows how many of `total` are evaluated. None: not known."""
        began = time.monotonic()
        for done, batch in enumerate(batches):
            left = None if total is None else total - done
            self._show(
                "evaluating: batch", done, total, _time_left(time.monotonic() - began, done, left)
            )
            yield batch

    def _show(
        self,
        what: str,
        done: int,
        total: int | None,
        left: float | None,
        loss: str = "",
        speed: str = "",
    ) -> None:
        now = time.monotonic()
        if now - self._shown < (_BAR_EVERY if self._has_bar else _LINE_EVERY):
            return
        self._shown = now
        remaining = "" if left is None else f"{duration(left)} left"
        if not self._has_bar:
            about = ", ".join(part for part in (loss, speed, remaining) if part)
            of = "" if total is None else f" of {total}"
            self.say(f"{what} {done}{of}{about and ': '}{about}")
            return
        self._progress.update(
            self._task,
            completed=done,
            total=total,
            visible=True,
            what=what.partition(":")[0],
            count=f"{done}/{'?' if total is None else total}",
            loss=loss,
            speed=speed,
            left=remaining,
        )
        self._guarded(self._progress.refresh)

    def _guarded(self, write: Callable[[], object]) -> None:
        """Calls `write`, unless the output failed before; keeps the error if it fails now."""
        if self.error is None:
            try:
                write()
            except (OSError, ValueError) as error:  # ValueError: the file is closed
                self.error = error


def duration(seconds: float) -> str:
    """Words for a time: "45 s", "3 min 20 s", "2 h 5 min"."""
    if seconds > _CENTURY:
        return "over 100 years"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _time_left(seconds: float, done: int, left: int | None) -> float | None:
    """Seconds for what is left, if `done` took `seconds`; None if that is not known."""
    if left is None or not done:
        return None
    try:
        return seconds / done * left
    except OverflowError:  # more steps than a float can hold
        return math.inf


def _smooth(former: float | None, new: float) -> float:
    return new if former is None else 0.95 * former + 0.05 * new
