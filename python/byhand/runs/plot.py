"""loss.png: the training and the validation loss over the steps."""

from __future__ import annotations

import base64
import importlib.util
import io
import math
import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from byhand.files import write_atomically
from byhand.runs.log import read_log

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MISSING = (
    "loss.png is not drawn because matplotlib is not installed (pip install 'byhand[plot]'); "
    "the numbers are in log.jsonl"
)


class History(list[dict[str, Any]]):
    """The records of a training: of each step its loss, of each evaluation the validation loss.

    Attributes:
        unit: of the losses, such as "nats per character".
    """

    def __init__(self, records: Iterable[dict[str, Any]] = (), unit: str = "") -> None:
        super().__init__(records)
        self.unit = unit

    def plot(self, path: str | Path | None = None) -> Figure:
        """The figure of `loss_figure`. With ``path`` it is written there, in the format that the
        ending of the name says (.png, .pdf, .svg, ...). ImportError without matplotlib, ValueError
        for an unknown ending.
        """
        if not _is_installed("matplotlib"):
            raise ImportError("history.plot() needs matplotlib: pip install 'byhand[plot]'")
        figure = loss_figure(self, self.unit)
        if path is not None:
            figure.savefig(path, dpi=120)
        return figure


class LossPlot:
    """Draws the curves of a log into the file `path` during and after training.

    Without matplotlib it calls `say` once with a sentence that says so, and draws nothing. The
    first failure of any other kind is reported through `say` too, and training goes on.

    Args:
        unit: of the loss, such as "nats per character".
        pause: seconds between two drawings.
    """

    def __init__(
        self,
        log: Path,
        path: Path,
        say: Callable[[str], None],
        unit: str = "",
        pause: float = 60.0,
    ) -> None:
        self._log = log
        self._path = path
        self._say = say
        self._unit = unit
        self._pause = pause
        self._drawn = time.monotonic()
        self._reported = False
        self._possible = _is_installed("matplotlib")
        if not self._possible:
            say(MISSING)

    def draw_if_due(self) -> None:
        """Draw, unless the last drawing is less than `pause` seconds old."""
        if time.monotonic() - self._drawn >= self._pause:
            self.draw()

    def draw(self) -> None:
        """Draw now; never raises an error."""
        if not self._possible:
            return
        self._drawn = time.monotonic()
        try:
            write_atomically(self._path, _loss_png(read_log(self._log), self._unit))
        # matplotlib raises errors of many kinds: for a missing TeX, an unknown back end, a damaged
        # installation or a cache that it cannot write. None of them may end a run.
        except Exception as error:
            if not self._reported:
                self._reported = True
                self._say(
                    f"{self._path} is not drawn ({in_short(error)}); training goes on, and the "
                    f"numbers are in {self._log.name}"
                )


def loss_image(records: Iterable[dict[str, Any]], unit: str = "") -> str:
    """The figure of `loss_figure` as an element of HTML; "" without records or matplotlib."""
    records = list(records)
    if not records or not _is_installed("matplotlib"):
        return ""
    data = base64.b64encode(_loss_png(records, unit, 80)).decode()
    return f'<img alt="training and validation loss" src="data:image/png;base64,{data}">'


def _loss_png(records: Iterable[dict[str, Any]], unit: str, dpi: int = 120) -> bytes:
    import numpy as np

    with np.errstate(all="ignore"):  # of losses near the largest float
        return png_of(loss_figure(records, unit), dpi)


def new_figure() -> Figure:
    """An empty figure."""
    # Not pyplot, which keeps global state and may want a display.
    from matplotlib.figure import Figure

    return Figure(figsize=(8, 5), layout="constrained")


def png_of(figure: Figure, dpi: int = 120) -> bytes:
    """The figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def loss_figure(records: Iterable[dict[str, Any]], unit: str = "") -> Figure:
    """The training and the validation loss of a log's records over the steps.

    The training loss is shown twice: as logged, pale, and its moving average. The validation loss
    at step 0, before any training, is a point without a line to the next one: between the two the
    loss falls steeply, and a straight line would show values it never had.
    """
    records, figure = list(records), new_figure()
    label = f"loss ({unit})" if unit else "loss"
    axes = figure.add_subplot(xlabel="step", ylabel=label, title="training and validation")
    steps, losses = _curve(records, "loss")
    axes.plot(steps, losses, color="tab:blue", linewidth=0.6, alpha=0.3)
    axes.plot(steps, moving_average(losses), color="tab:blue", linewidth=1.5, label="training")
    steps, losses = _curve(records, "validation_loss")
    if steps[:1] == [0]:
        steps, losses = [0, 0, *steps[1:]], [losses[0], math.nan, *losses[1:]]  # NaN: no line
    axes.plot(
        steps, losses, color="tab:orange", linewidth=2, marker="o", markersize=3, label="validation"
    )
    axes.grid(True, alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))  # beside the curves, not over them
    return figure


def moving_average(values: Sequence[float]) -> list[float]:
    """The mean of each value and its neighbours, up to 1 % of all values on each side. At the
    beginning, where the loss falls steeply, equally many are taken on both sides, so that the curve
    is not shifted.
    """
    import numpy as np

    n = len(values)
    at = np.arange(n)
    half = np.minimum(at, n // 100)
    first, end = at - half, np.minimum(at + half + 1, n)
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    averages: list[float] = ((sums[end] - sums[first]) / (end - first)).tolist()
    return averages


def _curve(records: Iterable[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    found = [(record["step"], record[key]) for record in records if key in record]
    return [step for step, _ in found], [value for _, value in found]


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # it is damaged: importing it will say how
        return True


def in_short(error: Exception) -> str:
    """The error in one line of at most 200 characters."""
    return textwrap.shorten(str(error), 200, placeholder="...") or type(error).__name__
