"""Turns the tables of the op suites into test parameters."""

from __future__ import annotations

import signal

import pytest

from byhand import backend
from tests.ops.suite import refused_calls

# A shell that starts a job in the background has it ignore Ctrl-C, and so would every process that
# the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def native_backends() -> list[str]:
    """The CPU back ends to hold against the reference: all that are built and can run here."""
    return list(backend.cpu_modules())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "native" in metafunc.fixturenames:
        metafunc.parametrize("native", native_backends())
    op = getattr(metafunc.cls, "op", None)
    if op is None:
        return
    if "sample" in metafunc.fixturenames:
        samples = op.samples
        if metafunc.function.__name__ == "test_finite_differences":
            samples = [s for s in samples if op.derives is not None and s.smooth]
        metafunc.parametrize("sample", samples, ids=lambda sample: sample.label)
    if "error" in metafunc.fixturenames:
        metafunc.parametrize("error", op.errors, ids=lambda error: error.message)
    if "refused" in metafunc.fixturenames:
        metafunc.parametrize("refused", refused_calls(op), ids=lambda call: call.label)
    if "kernel" in metafunc.fixturenames:
        metafunc.parametrize("kernel", op.kernels)
    if "home" in metafunc.fixturenames:
        metafunc.parametrize("home", ["reference", *native_backends()])
