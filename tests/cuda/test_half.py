"""Tests of the check of bfloat16 kernels: it must reject errors that occur in bfloat16 only."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.cuda import half
from tests.kernel_case import Rejected
from tests.ops.test_adamw import OP as ADAMW

ml_dtypes = pytest.importorskip("ml_dtypes")


def as_bf16(a: Any) -> Any:
    return a.astype(ml_dtypes.bfloat16).astype(np.float32)


def old_weights(step: Callable[..., None], w: Any, m: Any, v: Any, copy: Any, *rest: Any) -> None:
    before = w.copy()
    step(w, m, v, copy, *rest)
    copy[...] = before


def cut_off(step: Callable[..., None], w: Any, m: Any, v: Any, copy: Any, *rest: Any) -> None:
    step(w, m, v, copy, *rest)
    copy[...] = (w.view(np.uint32) & 0xFFFF0000).view(np.float32)


def half_moments(step: Callable[..., None], w: Any, m: Any, v: Any, copy: Any, *rest: Any) -> None:
    step(w, m, v, copy, *rest)
    v[...] = as_bf16(v)


def half_masters(step: Callable[..., None], w: Any, m: Any, v: Any, copy: Any, *rest: Any) -> None:
    step(w, m, v, copy, *rest)
    w[...] = as_bf16(w)


@pytest.mark.parametrize(
    ("bug", "result"),
    [(old_weights, "copy"), (cut_off, "copy"), (half_moments, "v"), (half_masters, "w")],
)
def test_a_planted_bug_is_rejected(bug, result, on_cpu):
    sample = next(s for s in ADAMW.samples if "copy" not in s.options)
    half.check(ADAMW, sample, on_cpu)
    broken = SimpleNamespace(adamw_step=lambda *a: bug(on_cpu.adamw_step, *a))
    with pytest.raises(Rejected, match=f"elements of {result} are wrong"):
        half.check(ADAMW, sample, broken)
