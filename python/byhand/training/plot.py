"""loss.png: the training and the validation loss over the steps."""

from __future__ import annotations

import importlib.util
import io
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from byhand.training.files import write_atomically
from byhand.training.log import read_log

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MISSING = (
    "loss.png is not drawn because matplotlib is not installed (pip install 'byhand[plot]'); "
    "the numbers are in log.jsonl"
)


class LossPlot:
    """Draws the log's curves into `path`, now and then while training goes on.

    Without matplotlib it says so once, through `say`, and does nothing else.
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

    def draw_now_and_then(self) -> None:
        """Draw, unless the last drawing is less than a minute old."""
        if time.monotonic() - self._drawn >= self._pause:
            self.draw()

    def draw(self) -> None:
        """Draw now. A picture is never a reason to stop training: a failure is only said."""
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
    """The records of a log as curves: steps to the right, loss upwards, a line for each loss."""
    # The object interface, not pyplot: no window, no global state, no display needed.
    from matplotlib.figure import Figure

    records = list(records)
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(
        xlabel="step", ylabel="cross-entropy loss (nats per token)", title="training and validation"
    )
    for key, label, style in (
        ("loss", "training", {"linewidth": 0.8, "alpha": 0.7}),
        ("validation_loss", "validation", {"linewidth": 2.0, "marker": "o", "markersize": 3}),
    ):
        curve = [(record["step"], record[key]) for record in records if key in record]
        axes.plot([step for step, _ in curve], [loss for _, loss in curve], label=label, **style)
    axes.grid(True, alpha=0.3)
    axes.legend(loc="upper right")
    return figure
