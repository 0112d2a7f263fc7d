"""loss.png: the training and the validation loss over the steps."""

from __future__ import annotations

import importlib.util
import io
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from byhand.runs.files import write_atomically
from byhand.runs.log import read_log

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MISSING = (
    "loss.png is not drawn because matplotlib is not installed (pip install 'byhand[plot]'); "
    "the numbers are in log.jsonl"
)


class LossPlot:
    """Draws the curves of a log into the file `path` during and after training.

    Without matplotlib it calls `say` once with a sentence that says so, and draws nothing.
    """

    def __init__(
        self, log: Path, path: Path, say: Callable[[str], None], pause: float = 60.0
    ) -> None:
        self._log = log
        self._path = path
        self._say = say
        self._pause = pause
        self._drawn = time.monotonic()
        self._possible = importlib.util.find_spec("matplotlib") is not None
        if not self._possible:
            say(MISSING)

    def draw_if_due(self) -> None:
        """Draw, unless the last drawing is less than `pause` seconds old."""
        if time.monotonic() - self._drawn >= self._pause:
            self.draw()

    def draw(self) -> None:
        """Draw now. A failure is reported through `say` and does not stop the training."""
        if not self._possible:
            return
        self._drawn = time.monotonic()
        try:
            buffer = io.BytesIO()
            loss_figure(read_log(self._log)).savefig(buffer, format="png", dpi=120)
            write_atomically(self._path, buffer.getvalue())
        except (ImportError, OSError) as error:
            self._say(f"{self._path} is not drawn: {error}")


def loss_figure(records: Iterable[dict[str, Any]]) -> Figure:
    """The training and the validation loss of a log's records over the steps."""
    # Not pyplot, which keeps global state and may want a display.
    from matplotlib.figure import Figure

    records = list(records)
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss", title="training and validation")
    for key, label, style in (
        ("loss", "training", {"linewidth": 0.8, "alpha": 0.7}),
        ("validation_loss", "validation", {"linewidth": 2.0, "marker": "o", "markersize": 3}),
    ):
        curve = [(record["step"], record[key]) for record in records if key in record]
        axes.plot([step for step, _ in curve], [loss for _, loss in curve], label=label, **style)
    axes.grid(True, alpha=0.3)
    axes.legend(loc="upper right")
    return figure
