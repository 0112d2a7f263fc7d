"""Turns the tables of the op suites into test parameters; the CUDA kernels as fixtures."""

from __future__ import annotations

import importlib
import os
import signal
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

# Parallel workers share the processors. Before byhand, which reads it, is imported.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

from byhand import _build, backend
from tests.cuda.device import OnCpu, OnDevice
from tests.cuda.schedules import SCHEDULES
from tests.ops.suite import refused_calls

collect_ignore = ["example_op"]  # files to be copied, not tests of this tree

# A job in the background of a shell ignores Ctrl-C, and its children inherit that: the processes
# that tests start and interrupt must not.
signal.signal(signal.SIGINT, signal.default_int_handler)


# --- CUDA kernels -------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def on_cpu() -> Any:
    """The CUDA kernels on the CPU; each test runs them under one of the schedules, by its name."""
    if "cuda_on_cpu" not in backend.built_modules():
        pytest.skip("byhand was built without the CUDA kernels for the CPU")
    return OnCpu()


@pytest.fixture(scope="session")
def on_gpu() -> Any:
    """The CUDA kernels on the GPU, taking numpy arrays. Skips, saying why, where there is none;
    with BYHAND_REQUIRE=cuda that is a failure.
    """
    if reason := backend.cuda_reason():
        if "cuda" in os.environ.get("BYHAND_REQUIRE", "").split(","):
            pytest.fail(f"BYHAND_REQUIRE asks for CUDA: {reason}")
        pytest.skip(reason)
    return OnDevice(backend.cuda(), importlib.import_module("cupy"))


@pytest.fixture
def schedule(request: Any) -> Iterator[str]:
    """The schedule of blocks on the CPU in this test."""
    chosen = SCHEDULES[zlib.crc32(request.node.name.encode()) % len(SCHEDULES)]
    if "cuda_on_cpu" not in backend.built_modules():
        yield chosen
        return
    with backend.cuda_on_cpu_schedule(chosen):
        yield chosen


@pytest.fixture(params=["on_cpu", pytest.param("on_gpu", marks=pytest.mark.gpu)])
def device_kernels(request: Any, schedule: str) -> Any:
    """The CUDA kernels on the CPU and on the GPU, one after the other."""
    if _build.SANITIZE:
        pytest.skip("tests/cuda/test_sanitized.py runs these kernels in a build with a sanitizer")
    return request.getfixturevalue(request.param)


# --- The parameters of the suites ---------------------------------------------------------------


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
    if "backend_name" in metafunc.fixturenames:
        metafunc.parametrize("backend_name", ["reference", *native_backends()])
