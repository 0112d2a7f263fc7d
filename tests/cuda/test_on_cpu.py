"""The CUDA kernels on the CPU through their Python interface, and some on random shapes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import byhand
from byhand import backend
from tests.cuda.schedules import SCHEDULES

pytestmark = pytest.mark.usefixtures("on_cpu")


def test_it_can_be_loaded_but_is_never_the_default():
    assert "cuda_on_cpu" in byhand.info()["backends_built"]
    assert "cuda_on_cpu" not in backend.cpu_modules()
    assert backend.kernels(np.zeros(1, np.float32)) is backend.cpu()


def test_the_python_of_the_documentation_runs():
    page = (Path(__file__).parents[2] / "docs" / "cuda.md").read_text(encoding="utf-8")
    codes = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (code,) = (c for c in codes if "GraphStep" not in c)  # test_step.py runs the other
    scope: dict[str, np.ndarray] = {}
    exec(compile(code, "docs/cuda.md", "exec"), scope)
    np.testing.assert_allclose(scope["y"].astype(np.float32).sum(-1), 1, atol=0.01)


def test_schedules_are_restored():
    import byhand_cuda_on_cpu

    before = byhand_cuda_on_cpu.schedule()
    with backend.cuda_on_cpu_schedule("random:5 early"):
        assert byhand_cuda_on_cpu.schedule() == "random:5 early"
        with pytest.raises(ZeroDivisionError), backend.cuda_on_cpu_schedule("reverse"):
            raise ZeroDivisionError
        assert byhand_cuda_on_cpu.schedule() == "random:5 early"
    assert byhand_cuda_on_cpu.schedule() == before


@pytest.mark.parametrize(
    "text", ["", "backward", "random:", "random:x", "random:1x", "forward:1", "forward soon",
             "forward late early", "forward late nearest 1", f"random:{2**70}"],
)  # fmt: skip
def test_other_schedules_are_refused(text):
    with pytest.raises(ValueError, match=r"a schedule is forward.* got '"):
        with backend.cuda_on_cpu_schedule(text):
            pass


def test_the_environment_sets_the_schedule():
    code = "import byhand_cuda_on_cpu as m; print(m.schedule())"
    for given_, printed in (({"BYHAND_SCHEDULE": "warp-greedy"}, "warp-greedy"),
                            ({}, "forward late")):  # fmt: skip
        environment = {k: v for k, v in os.environ.items() if k != "BYHAND_SCHEDULE"} | given_
        out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True,
                             text=True, check=True)  # fmt: skip
        assert out.stdout.strip() == printed


def test_bfloat16_is_for_cuda_kernels_only():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x, y = np.ones((2, 3), ml_dtypes.bfloat16), np.zeros((2, 3), ml_dtypes.bfloat16)
    backend.cuda_on_cpu().softmax_forward(y, x, None, 1.0, False)
    assert (y == np.array(1 / 3).astype(ml_dtypes.bfloat16)).all()
    for kernels in backend.cpu_modules().values():
        with pytest.raises(TypeError, match=r"y must be float32, int64 or bool, got .*bfloat16"):
            kernels.softmax_forward(y, x, None, 1.0, False)
    with pytest.raises(
        TypeError, match=r"y must be float32, bfloat16, int64 or bool, got .*float64"
    ):
        backend.cuda_on_cpu().softmax_forward(x.astype(float), x, None, 1.0, False)


def test_several_threads_of_python_at_once():
    """Each has a stream and therefore a workspace for partial sums of its own."""
    logits = np.random.default_rng(0).standard_normal((8, 300, 40)).astype(np.float32)
    targets = np.zeros(300, np.int64)

    def losses(x):
        loss, count, lse = np.zeros(5, np.float32), np.zeros((), np.float32), np.zeros_like(x[:, 0])
        for i in range(loss.size):
            result = loss[i : i + 1].reshape(())
            backend.cuda_on_cpu().cross_entropy_forward(
                result, count, lse, x, targets, -100, 0.0, True
            )
        return loss

    with ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(losses, logits))
    np.testing.assert_array_equal(at_once, [losses(x) for x in logits])


SHAPES = {"rows": st.integers(0, 40), "cols": st.integers(1, 3000), "seed": st.integers(0, 1000),
          "schedule": st.sampled_from(SCHEDULES)}  # fmt: skip
FUZZ = settings(max_examples=60, deadline=None, derandomize=True,
                suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip


@FUZZ
@given(**SHAPES, causal=st.booleans(), shift=st.integers(0, 3))
def test_softmax_of_any_shape(rows, cols, seed, schedule, causal, shift):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(rows * cols + shift).astype(np.float32)[shift:].reshape(rows, cols)
    y, exact = np.full_like(x, np.nan), np.full(x.shape, np.nan)
    with backend.cuda_on_cpu_schedule(schedule):
        backend.cuda_on_cpu().softmax_forward(y, x, None, 0.5, causal)
    backend.reference.softmax_forward(exact, x.astype(np.float64), None, 0.5, causal)
    np.testing.assert_allclose(y, exact, rtol=1e-5, atol=1e-7)


@FUZZ
@given(**SHAPES, smoothing=st.sampled_from([0.0, 0.1]), mean=st.booleans())
def test_cross_entropy_of_any_shape(rows, cols, seed, schedule, smoothing, mean):
    rng = np.random.default_rng(seed)
    logits = 3 * rng.standard_normal((rows, cols)).astype(np.float32)
    targets = rng.integers(0, cols, rows)
    targets[rng.random(rows) < 0.2] = -100
    options = (-100, smoothing, mean)

    def both(kernels, dtype):
        x = logits.astype(dtype)
        loss, count, lse = np.zeros((), dtype), np.zeros((), dtype), np.zeros(rows, dtype)
        kernels.cross_entropy_forward(loss, count, lse, x, targets, *options)
        dx = np.full_like(x, np.nan)
        kernels.cross_entropy_backward(dx, np.array(0.7, dtype), count, lse, x, targets, *options)
        return loss, dx

    with backend.cuda_on_cpu_schedule(schedule):
        loss, dx = both(backend.cuda_on_cpu(), np.float32)
    exact_loss, exact_dx = both(backend.reference, np.float64)
    np.testing.assert_allclose(loss, exact_loss, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(dx, exact_dx, rtol=1e-4, atol=1e-6)


@FUZZ
@given(size=st.integers(0, 9000), seed=st.integers(0, 1000), shift=st.integers(0, 3),
       schedule=st.sampled_from(SCHEDULES))  # fmt: skip
def test_clip_of_any_size(size, seed, shift, schedule):
    g = np.random.default_rng(seed).standard_normal(size + shift).astype(np.float32)[shift:]
    norm = np.array(np.linalg.norm(g), np.float32)
    expected = g * min(1.0, 0.5 / (float(norm) + 1e-6))
    with backend.cuda_on_cpu_schedule(schedule):
        backend.cuda_on_cpu().clip(g, norm, 0.5)
    np.testing.assert_allclose(g, expected, rtol=1e-6)
