"""Values for which infinities are the right result are computed without a warning of numpy."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest

from byhand import ops
from byhand.generation import processors
from byhand.nn.parameter import require_held


def rows_without_columns() -> None:
    y, _ = ops.log_softmax.forward(np.empty((3, 0)))
    assert y.shape == (3, 0)


def queries_that_see_no_key() -> None:
    q = np.random.default_rng(0).standard_normal((2, 3, 1, 4))
    o, saved = ops.attention.forward(q, q.copy(), q.copy(), lengths=np.array([0, 2]))
    assert (o[0] == 0).all()
    assert (o[1] != 0).all()
    assert (saved[4][0] == -np.inf).all()


def a_tiny_temperature() -> None:
    scores = processors.temperature(1e-320)([], np.array([[0.0, 5.0, -3.0]]))
    assert scores.tolist() == [[-np.inf, 0, -np.inf]]


def numbers_that_no_integer_holds() -> None:
    with pytest.raises(ValueError, match="which cannot hold the values given"):
        require_held("table", np.array([1.0, np.nan, 1e300]), np.dtype(np.int8))


@pytest.mark.parametrize(
    "compute",
    [
        rows_without_columns,
        queries_that_see_no_key,
        a_tiny_temperature,
        numbers_that_no_integer_holds,
    ],
)
def test_it_is_computed_without_a_warning(compute: Callable[[], None]):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        compute()
