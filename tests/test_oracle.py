"""Tests of the oracle: it must reject every planted bug, and accept the reference itself.

The bugs of an op are in its case, as edits of the text of the reference; those of memory, order and
isolation are below.
"""

from __future__ import annotations

import ctypes
import inspect
import textwrap
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from byhand import backend
from tests import oracle
from tests.cases import all_ops, op_of
from tests.kernel_case import Bug, Op, Rejected, bare_reference

OPS = {op.name: op for op in all_ops()}


def rejects(check: str, op: Op, kernels: Any) -> bool:
    """Whether one check of the oracle finds fault with `kernels` in any sample."""
    for sample in op.samples:
        try:
            if check == "differences":
                if sample.smooth:
                    oracle.check_differences(op, sample, kernels)
            elif check == "torch":
                oracle.check_torch(op, sample, kernels)
            elif check == "native":
                oracle.check_native(op, sample, kernels)
                oracle.check_native(op, sample, kernels, shift=1)
            elif check == "bits":
                oracle.check_same_bits(op, sample, kernels, backend.set_num_threads)
            elif check == "in place":
                oracle.check_in_place(op, sample, kernels)
            else:
                oracle.check_rows(op, sample, kernels)
        except Rejected:
            return True
    return False


def source_of(function: Callable[..., Any]) -> str:
    lines = textwrap.dedent(inspect.getsource(inspect.unwrap(function))).splitlines()
    return "\n".join(line for line in lines if not line.startswith("@")) + "\n"


def edited(kernel: str, helper: str | None, edits: tuple[tuple[str, str], ...]) -> SimpleNamespace:
    """The reference kernels with one of them, or a function it calls, rewritten."""
    body = inspect.unwrap(getattr(backend.reference, kernel))
    scope = dict(body.__globals__)
    target = kernel if helper is None else helper
    text = source_of(body if helper is None else scope[helper])
    for old, new in edits:
        assert text.count(old) >= 1, f"{target} has no {old!r} to edit"
        text = text.replace(old, new)
    for name, code in ((target, text), (kernel, None if helper is None else source_of(body))):
        if code is not None:
            exec(compile(code, f"<{name} with a bug>", "exec"), scope)
    kernels = bare_reference()
    setattr(kernels, kernel, scope[kernel])
    return kernels


BUGS = [bug for op in all_ops() for bug in op.planted]


@pytest.mark.deep
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: f"{bug.kernel}-{bug.what}")
def test_a_planted_bug_is_rejected(bug: Bug) -> None:
    kernels = edited(bug.kernel, bug.helper, ((bug.old, bug.new),))
    for check in bug.caught_by.split():
        if check == "torch":
            pytest.importorskip("torch")
        assert rejects(check, op_of(bug.kernel), kernels), f"{check} lets it pass"


# --- Bugs of memory, order and isolation --------------------------------------------------------


def writable(a: Any, count: int) -> Any:
    """The memory of `a`, and what lies after it, as C sees it: `count` numbers, all writable."""
    pointer = ctypes.cast(a.ctypes.data, ctypes.POINTER(ctypes.c_float))
    return np.ctypeslib.as_array(pointer, (count,))


def reads_past_the_tail(y: Any, x: Any, b: Any, tanh: bool) -> None:
    TRUTH.bias_gelu_forward(y, x, b, tanh)
    if x.size:
        y.reshape(-1)[-1] += 0 * writable(x, x.size + 1)[-1]


def writes_past_the_tail(y: Any, x: Any, b: Any, tanh: bool) -> None:
    TRUTH.bias_gelu_forward(y, x, b, tanh)
    writable(y, y.size + 1)[-1] = 0


def leaves_the_tail(y: Any, x: Any, b: Any, tanh: bool) -> None:
    whole = x.shape[-1] // 16 * 16
    if b is None:
        y[..., :whole] = TRUTH_GELU(x[..., :whole], tanh)
    else:
        y[..., :whole] = TRUTH_GELU(x[..., :whole] + b[:whole], tanh)


def changes_an_input(y: Any, x: Any, b: Any, tanh: bool) -> None:
    TRUTH.bias_gelu_forward(y, x, b, tanh)
    if b is not None and x.size:
        writable(x, x.size)[...] = (x + b).reshape(-1)


def writes_between_strided_rows(*arguments: Any) -> None:
    TRUTH.attention_backward(*arguments)
    dq = arguments[0]
    if dq.size and not dq.flags.c_contiguous:
        writable(dq, dq.shape[-1] + 1)[-1] = 0


def adds_by_thread(dw: Any, work: Any, dy: Any, ids: Any, scale: float) -> None:
    if dw is not None:
        threads = backend.get_num_threads()
        for part in range(threads):
            np.add.at(dw, ids.reshape(-1)[part::threads], dy.reshape(ids.size, -1)[part::threads])


def adds_in_any_order(dw: Any, work: Any, dy: Any, ids: Any, scale: float) -> None:
    if dw is not None:
        order = np.random.default_rng().permutation(ids.size)
        np.add.at(dw, ids.reshape(-1)[order], dy.reshape(ids.size, dw.shape[1])[order])


def reads_what_it_has_written(dx: Any, dy: Any, y: Any, scale: float) -> None:
    dx[...] = scale * y * dy
    dx -= scale * y * (dy * y).sum(axis=-1, keepdims=True)


def spreads_nan(y: Any, x: Any) -> None:
    TRUTH.log_softmax_forward(y, x)
    y += 0 * x.sum()


def loses_nan(y: Any, x: Any) -> None:
    TRUTH.log_softmax_forward(y, np.nan_to_num(x))


TRUTH = bare_reference()
TRUTH_GELU = inspect.unwrap(backend.reference.bias_gelu_forward).__globals__["gelu"]

MISBEHAVIOURS = [
    ("bias_gelu_forward", reads_past_the_tail, "native"),
    ("bias_gelu_forward", writes_past_the_tail, "native"),
    ("bias_gelu_forward", leaves_the_tail, "native"),
    ("bias_gelu_forward", changes_an_input, "native"),
    ("attention_backward", writes_between_strided_rows, "native"),
    ("embedding_backward", adds_by_thread, "bits"),
    ("embedding_backward", adds_in_any_order, "bits"),
    ("softmax_backward", reads_what_it_has_written, "in place"),
    ("log_softmax_forward", spreads_nan, "rows"),
    ("log_softmax_forward", loses_nan, "rows"),
]


@pytest.fixture
def threads() -> Iterator[None]:
    before = backend.get_num_threads()
    yield
    backend.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    ("kernel", "body", "check"), MISBEHAVIOURS, ids=lambda p: getattr(p, "__name__", p)
)
def test_misbehaviour_is_rejected(kernel: str, body: Callable[..., None], check: str) -> None:
    kernels = bare_reference()
    setattr(kernels, kernel, body)
    assert rejects(check, op_of(kernel), kernels)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("op", OPS.values(), ids=lambda op: op.name)
def test_what_is_right_is_accepted(op: Op) -> None:
    """The reference itself, run in float32 where a native kernel would run."""
    for check in ("native", "bits", "in place", "rows"):
        assert not rejects(check, op, bare_reference()), check


def test_ones_upstream_would_let_bugs_pass() -> None:
    """Why the upstream gradient is random: with ones the gradient of softmax is 0, bug or not."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 5))
    broken = edited("softmax_backward", None, (("scale * y", "7 * y"),))
    y, right, wrong = (np.empty_like(x) for _ in range(3))
    TRUTH.softmax_forward(y, x, None, 1.0, False)
    TRUTH.softmax_backward(right, np.ones_like(y), y, 1.0)
    broken.softmax_backward(wrong, np.ones_like(y), y, 1.0)
    np.testing.assert_allclose(right, wrong, atol=1e-15)
    assert rejects("differences", OPS["softmax"], broken)
