"""The base of demos, and the table in which they print numbers."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Demo:
    """A worked example, computed by the constructor; each file of this folder exports one class
    under the name `Demo`.

    Attributes:
        about: what it shows, in a line.
        rows: the rows of docs/guide_map.md that it belongs to.
    """

    about = ""
    rows: tuple[str, ...] = ()

    def text(self) -> str:
        """What `byhand demo` prints: lines of at most 100 characters, in ASCII."""
        raise NotImplementedError

    def draw(self, figure: Figure) -> None:
        """Draws the example into an empty figure."""
        raise NotImplementedError


def table(rows: Iterable[Sequence[object]]) -> str:
    """Rows of equally many cells as aligned columns: words to the left, numbers to the right,
    fractions with three decimals.
    """
    shown = [[(_show(cell), isinstance(cell, str)) for cell in row] for row in rows]
    widths = [max(len(cell) for cell, _ in column) for column in zip(*shown, strict=True)]
    lines = (
        "  ".join(
            cell.ljust(width) if is_word else cell.rjust(width)
            for (cell, is_word), width in zip(row, widths, strict=True)
        )
        for row in shown
    )
    return "\n".join("  " + line.rstrip() for line in lines)


def matrix(values: Any) -> str:
    """A matrix of numbers as a table; -inf as such."""
    return table(np.asarray(values, np.float64).tolist())


def heat_map(axes: Any, values: Any, title: str, x: str = "", y: str = "") -> None:
    """A matrix as an image with its numbers in the cells."""
    values = np.asarray(values)
    axes.imshow(values, cmap="Blues", vmin=0)
    for (row, column), value in np.ndenumerate(values):
        color = "white" if value > 0.6 * values.max() else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=color)
    rows, columns = (range(size) for size in values.shape)
    axes.set(title=title, xlabel=x, ylabel=y, xticks=columns, yticks=rows)


def _show(cell: object) -> str:
    if isinstance(cell, numbers.Real) and not isinstance(cell, numbers.Integral):
        return f"{float(cell):.3f}"
    return str(cell)
