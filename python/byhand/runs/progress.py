"""Output while a model trains: lines of text and, on a terminal, a progress bar below them."""

from __future__ import annotations


class Display:
    """Prints lines, and shows a bar with the loss, the speed and the time left.

    If the output is not a terminal (a file, a pipe) there are only the lines.

    Args:
        unit: what the speed counts: "token", "example", "pair".
    """

    def __init__(self, unit: str = "token") -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TextColumn(f"{{task.fields[speed]:,.0f}} {unit}s/s"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self._console,
            refresh_per_second=4,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("", visible=False, loss=0.0, speed=0.0)
        self.loss: float | None = None  # smoothed
        self.speed: float | None = None  # units per second, smoothed

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text)

    def step(self, step: int, steps: int, loss: float, units: int, seconds: float) -> None:
        """Show that `step` of `steps` is done, which took `seconds` for `units` tokens (or
        examples, or pairs).
        """
        self.loss = _smooth(self.loss, loss)
        self.speed = _smooth(self.speed, units / max(seconds, 1e-9))
        self._progress.update(
            self._task,
            completed=step,
            total=steps,
            visible=True,
            loss=self.loss,
            speed=self.speed,
        )


def _smooth(former: float | None, new: float) -> float:
    return new if former is None else 0.95 * former + 0.05 * new
