"""Dtypes and directions of a kernel's arguments, from the annotations of its reference."""

from __future__ import annotations

import numpy as np
import pytest

from byhand import backend
from byhand.backend import Acc, Argument, In, Mut, Out, StridedIn, reference_kernel
from byhand.backend.reference import reference
from byhand.backend.types import arguments_of


def scale_rows(
    y: Out,
    total: Out[np.float32],
    dw: Acc | None,
    state: Mut[np.float32],
    x: In,
    ids: In[np.int64] | None,
    mask: StridedIn[np.bool_] | None,
    count: int,
) -> None: ...


def test_annotations_say_direction_and_dtype() -> None:
    f32, i64 = np.dtype(np.float32), np.dtype(np.int64)
    assert arguments_of(scale_rows) == (
        Argument("y", "Out", False, None),
        Argument("total", "Out", False, f32),
        Argument("dw", "Acc", True, f32),
        Argument("state", "Mut", False, f32),
        Argument("x", "In", False, None),
        Argument("ids", "In", True, i64),
        Argument("mask", "StridedIn", True, np.dtype(np.bool_)),
        Argument("count", "", False, None),
    )
    floating = {a.name for a in arguments_of(scale_rows) if a.floating}
    assert floating == {"y", "total", "dw", "state", "x"}


@pytest.fixture
def registered():
    """A reference kernel whose argument names no other kernel has."""

    @reference_kernel
    def gather_codes(y: Out, table: In, codes: In[np.int64], keep: In[np.bool_] | None) -> None:
        y[...] = table[codes] if keep is None else table[codes] * keep

    yield gather_codes
    del reference.__dict__["gather_codes"]
    reference.available.remove("gather_codes")


def test_a_new_kernel_names_its_integers_as_it_likes(registered) -> None:
    y, table, codes, keep = np.zeros(2), np.arange(3.0), np.array([2, 1]), np.array([True, False])
    backend.reference.gather_codes(y, table, codes, keep)
    assert y.tolist() == [2, 0]
    for bad in (codes.astype(np.int32), codes.astype(float)):
        with pytest.raises(TypeError, match=r"^gather_codes: codes must be int64, got"):
            registered(y, table, bad, None)
    with pytest.raises(TypeError, match=r"^gather_codes: keep must be bool, got"):
        registered(y, table, codes, keep.astype(float))
    with pytest.raises(TypeError, match=r"^gather_codes: table must be float64, got"):
        registered(y, table.astype(np.float32), codes, None)
    with pytest.raises(TypeError, match=r"^gather_codes: codes must be an array, got None"):
        registered(y, table, None, None)
    with pytest.raises(TypeError, match=r"^gather_codes: takes 4 arguments, got 3"):
        registered(y, table, codes)
