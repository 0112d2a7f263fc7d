"""Values for which infinities are the right result are computed without a warning of numpy."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from byhand import ops
from byhand.generation import probabilities
from byhand.nn.parameter import require_held
from byhand.runs.plot import LossPlot


def rows_without_columns(folder: Path) -> None:
    y, _ = ops.log_softmax.forward(np.empty((3, 0)))
    assert y.shape == (3, 0)


def queries_that_see_no_key(folder: Path) -> None:
    q = np.random.default_rng(0).standard_normal((2, 3, 1, 4))
    o, saved = ops.attention.forward(q, q.copy(), q.copy(), lengths=np.array([0, 2]))
    assert (o[0] == 0).all()
    assert (o[1] != 0).all()
    assert (saved[4][0] == -np.inf).all()


def a_tiny_temperature(folder: Path) -> None:
    p = probabilities(np.array([0.0, 5.0, -3.0]), temperature=1e-320)
    assert p.tolist() == [0, 1, 0]


def numbers_that_no_integer_holds(folder: Path) -> None:
    with pytest.raises(ValueError, match="which cannot hold the values given"):
        require_held("table", np.array([1.0, np.nan, 1e300]), np.dtype(np.int8))


def losses_near_the_largest_float(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    records = [{"step": n, "loss": loss} for n, loss in enumerate((1.7e308, -1.7e308, 1e300))]
    log = folder / "log.jsonl"
    log.write_text("".join(json.dumps(record) + "\n" for record in records))
    said: list[str] = []
    LossPlot(log, folder / "loss.png", said.append).draw()
    assert said == []
    assert (folder / "loss.png").exists()


@pytest.mark.parametrize(
    "compute",
    [
        rows_without_columns,
        queries_that_see_no_key,
        a_tiny_temperature,
        numbers_that_no_integer_holds,
        losses_near_the_largest_float,
    ],
)
def test_it_is_computed_without_a_warning(compute: Callable[[Path], None], tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        compute(tmp_path)
