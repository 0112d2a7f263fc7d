"""The cases of all ops: tests/ops/test_<op>.py for every module of byhand.ops."""

from __future__ import annotations

import functools
import importlib

from byhand import ops
from tests.kernel_case import Op
from tests.ops.suite import OpSuite


@functools.cache
def all_ops() -> tuple[Op, ...]:
    """The op of every class that inherits OpSuite, in the order of their names.

    ModuleNotFoundError for an op without a test file.
    """
    for name in ops.__all__:
        importlib.import_module(f"tests.ops.test_{name}")
    found = (suite.op for suite in OpSuite.__subclasses__())
    return tuple(sorted(found, key=lambda op: op.name))


def op_of(kernel: str) -> Op:
    """The op that a kernel belongs to. KeyError when there is no such kernel."""
    return _owners()[kernel]


@functools.cache
def _owners() -> dict[str, Op]:
    return {kernel: op for op in all_ops() for kernel in op.kernels}
