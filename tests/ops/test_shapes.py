"""Samples of any shape, drawn by hypothesis, on the best native back end."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byhand import backend
from tests import oracle
from tests.cases import all_ops
from tests.kernel_case import Op

OPS = [op for op in all_ops() if op.drawn is not None]


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data(), shift=st.integers(0, 3))
def test_any_shape(op: Op, data: st.DataObject, shift: int) -> None:
    assert op.drawn is not None
    sample, kernels = data.draw(op.drawn), backend.cpu()
    oracle.check_native(op, sample, kernels, shift)
    oracle.check_rows(op, sample, kernels)
