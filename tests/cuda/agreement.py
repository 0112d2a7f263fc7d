"""How close two runs of a kernel must be: the GPU and the same .cu file on the CPU, and a call of
bench.gpu and the numpy reference.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.cases import op_of
from tests.cuda import half
from tests.kernel_case import Arrays, Rejected, bare_reference, directions
from tests.oracle import EPS

NEAR = 16  # epsilons of float32 between two results, relative to the largest value


def _is_bf16(array: Any) -> bool:
    """Whether every value is one that bfloat16 can hold."""
    single = np.asarray(array, np.float32)
    return bool(((single.view(np.uint32) & 0xFFFF) == 0).all())


def check_agreement(kernel: str, gpu: Arrays, cpu: Arrays) -> None:
    """Raises Rejected unless two runs of one kernel, as {result: array}, gave the same.

    Kernels without exponentials: the same bits, but for what a NaN carries. The others: within NEAR
    epsilons of the largest value and, where the result is kept in bfloat16, one rounding step of it
    more.
    """
    for name, mine in gpu.items():
        a, b = np.asarray(mine, np.float64), np.asarray(cpu[name], np.float64)
        same = (np.isnan(a) & np.isnan(b)) | ((a == b) & (np.signbit(a) == np.signbit(b)))
        allowed = np.zeros_like(b)
        if kernel in op_of(kernel).cuda.inexact:
            finite = np.where(np.isfinite(b), np.abs(b), 0.0)
            allowed += NEAR * EPS * np.max(finite, initial=0.0)
            if _is_bf16(mine) and _is_bf16(cpu[name]):
                allowed += 2.0**-7 * finite
            with np.errstate(invalid="ignore"):
                same |= np.abs(a - b) <= allowed
        if not same.all():
            at = tuple(int(i) for i in np.argwhere(~same)[0])
            raise Rejected(
                f"{kernel}: {name} differs between the GPU and the CPU, first at {at}: {a[at]:.9g} "
                f"and {b[at]:.9g}, allowed difference {float(allowed[at]):.1e}"
            )


# --- Calls by name -------------------------------------------------------------------------------


def _is_float(array: Any) -> bool:
    # bfloat16 is a type of its own to numpy.
    return isinstance(array, np.ndarray) and array.dtype.kind not in "iub"


def call(kernels: Any, kernel: str, arguments: Arrays, dtype: Any = None) -> Arrays:
    """Calls a kernel on copies of `arguments`, results poisoned -> {result: array}.

    dtype: what floating arrays are converted to; their own by default.
    """
    values, results = [], {}
    for name, direction, _ in directions(kernel):
        value = arguments.get(name)
        if isinstance(value, np.ndarray):
            kept = dtype if dtype and _is_float(value) else value.dtype
            value = np.full(value.shape, np.nan, kept) if direction == "Out" else value.astype(kept)
            if direction in ("Out", "Acc", "Mut"):
                results[name] = value
        values.append(value)
    with np.errstate(all="ignore"):
        getattr(kernels, kernel)(*values)
    return results


def check_call(kernels: Any, kernel: str, arguments: Arrays) -> Arrays:
    """Holds one call against the reference in float64, within half.allowance. Raises Rejected ->
    {result: array}.
    """
    reference, op = bare_reference(), op_of(kernel)
    got = call(kernels, kernel, arguments)
    if arguments.get("s") is not None:  # a sum that is rounded before it is used
        s = arguments["x"].astype(np.float64) + arguments["add"].astype(np.float64)
        arguments = {**arguments, "x": s.astype(arguments["s"].dtype), "add": None, "s": None}
    exact = call(reference, kernel, arguments, np.float64)
    single = call(reference, kernel, arguments, np.float32)
    if "s" in got:
        exact["s"] = single["s"] = s
        arguments["s"] = arguments["x"]
    is_half = any(_is_float(a) and a.dtype.itemsize == 2 for a in arguments.values())
    for name in exact.keys() - op.scratch:
        truth = exact[name]
        allowed = half.allowance(truth, single[name], arguments[name].dtype)
        if is_half:
            allowed += op.cuda.slack * float(np.max(np.abs(truth), initial=0.0))
        error = np.abs(np.asarray(got[name], np.float64) - truth)
        if not np.max(error, initial=0.0) <= allowed:
            at = tuple(int(i) for i in np.argwhere(~(error <= allowed))[0])
            raise Rejected(
                f"{kernel}: {name} is wrong, first at {at}: {float(got[name][at]):.9g} instead of "
                f"{truth[at]:.9g}, allowed error {allowed:.1e}"
            )
    return got
