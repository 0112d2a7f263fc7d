"""Pictures of what models compute. They need matplotlib: pip install 'byhand[plot]'."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from byhand.runs.plot import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INCHES = 2.6  # of one heat map, and a fifth of one for each of many tokens


def attention(
    weights: Any,
    tokens: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
    path: str | Path | None = None,
) -> Figure:
    """A heat map of the attention weights for each layer (rows) and head (columns).

    Args:
        weights: those of one sequence: (T, S) of one head, (H, T, S) of one layer, or a sequence of
            layers, (L, H, T, S). ``attention(x, return_weights=True)`` gives (B, H, T, S):
            weights[0] are those of its first sequence.
        tokens: the T tokens of the queries, from top to bottom.
        keys: the S tokens of the keys, from left to right; None: ``tokens``, if S = T.
        path: where the figure is written, in the format that the ending of the name says.

    Raises ImportError without matplotlib, ValueError for weights of another shape, for layers that
    differ in theirs, for another number of tokens, and for an unknown ending.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError("plot.attention() needs matplotlib: pip install 'byhand[plot]'")
    layers = _layers(weights)
    count, heads, queries, columns = layers.shape
    if keys is None and queries == columns:
        keys = tokens
    beside, below = _ticks("tokens", tokens, queries), _ticks("keys", keys, columns)
    style = {"fontsize": 7, "parse_math": False}  # a token may be a dollar sign
    figure = new_figure()
    width, height = (max(_INCHES, n / 5) for n in (columns, queries))
    figure.set_size_inches(heads * width + 0.6, count * height + 0.4)
    grid = figure.subplots(count, heads, squeeze=False)
    for layer in range(count):
        for head in range(heads):
            axes = grid[layer][head]
            image = axes.imshow(layers[layer, head], cmap="Blues", vmin=0, vmax=1, aspect="auto")
            axes.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=8)
            axes.set_xticks(*below, rotation=90, **style)
            axes.set_yticks(*beside, **style)
            axes.set_xlabel("key", fontsize=7)
            axes.set_ylabel("query", fontsize=7)
    figure.colorbar(image, ax=grid, shrink=0.6, label="weight")
    if path is not None:
        figure.savefig(path, dpi=120)
    return figure


def _layers(weights: Any) -> np.ndarray:
    """The weights as (L, H, T, S)."""
    if isinstance(weights, (list, tuple)):
        shapes = [np.shape(layer) for layer in weights]
        if len(set(shapes)) > 1:
            raise ValueError(f"plot.attention: the layers differ in their shapes, {shapes}")
    found = np.asarray(weights, np.float64)
    if not 2 <= found.ndim <= 4 or not found.size:
        raise ValueError(
            "plot.attention: weights must have shape (T, S), (H, T, S) or (L, H, T, S) and an "
            f"element, got {found.shape}"
        )
    return found.reshape((1,) * (4 - found.ndim) + found.shape)


def _ticks(name: str, tokens: Sequence[str] | None, count: int) -> tuple[Any, ...]:
    """Where an axis has labels, and what they say: positions where there are no tokens."""
    if tokens is None:
        at = range(0, count, max(1, count // 8))
        return at, [str(n) for n in at]
    labels = [repr(str(token))[1:-1] for token in tokens]  # a line break becomes \n
    if len(labels) != count:
        raise ValueError(f"plot.attention: {name} must be {count} tokens, got {len(labels)}")
    return range(count), labels
