"""The thread pool of the kernels: forks, threads of the program, the GIL, Ctrl-C."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import byhand
from byhand import backend
from byhand.ops import linear, softmax

RNG = np.random.default_rng(0)
X = RNG.standard_normal((512, 300), dtype=np.float32)
W = RNG.standard_normal((400, 300), dtype=np.float32)


@pytest.fixture
def four_threads():
    before = byhand.get_num_threads()
    byhand.set_num_threads(4)
    yield
    byhand.set_num_threads(before)


def work() -> bytes:
    y, _ = linear.forward(X, W)
    y, _ = softmax.forward(y)
    return y.tobytes()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_has_a_pool_of_its_own(four_threads):
    expected = work()
    for _ in range(3):
        child = os.fork()
        if child == 0:
            os._exit(0 if work() == expected else 1)
        deadline = time.monotonic() + 30
        while (done := os.waitpid(child, os.WNOHANG)) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(child, 9)
                os.waitpid(child, 0)
                pytest.fail("the child hangs")
            time.sleep(0.01)
        assert os.waitstatus_to_exitcode(done[1]) == 0
        assert work() == expected


def test_kernels_called_from_many_threads_at_once(four_threads):
    expected = work()
    results: list[bytes] = []

    def run() -> None:
        for _ in range(20):
            results.append(work())

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert len(results) == 120
    assert set(results) == {expected}


@pytest.mark.parametrize("threads", [2, 8, 31])
def test_many_short_loops_on_more_threads_than_cores(four_threads, threads):
    """A worker that comes late finds that its loop has ended and another one has begun."""
    sizes = [(64, 40), (700, 3000), (130, 300), (512, 257)]
    inputs = [RNG.standard_normal(size, dtype=np.float32) for size in sizes]

    def results() -> list[bytes]:
        products = [linear.forward(x, x[: x.shape[0] // 2])[0] for x in inputs]
        return [y.tobytes() for x in inputs + products for y in softmax.forward(x)[:1]]

    byhand.set_num_threads(1)
    expected = results()
    byhand.set_num_threads(threads)
    for _ in range(40):
        assert results() == expected


def test_the_gil_is_released_while_a_kernel_runs():
    """Another Python thread runs during one long kernel call."""
    a = RNG.standard_normal((2500, 2500), dtype=np.float32)
    c = np.empty((2500, 2500), np.float32)
    ticks = 0
    inside = threading.Event()
    stop = threading.Event()

    def tick() -> None:
        nonlocal ticks
        inside.wait()
        while not stop.is_set():
            ticks += 1
            time.sleep(0)  # releases the GIL for a waiting thread

    ticker = threading.Thread(target=tick)
    ticker.start()
    kernel = backend.cpu().matmul_forward
    interval = sys.getswitchinterval()
    sys.setswitchinterval(100)  # the ticker can run only when this thread releases the GIL
    try:
        inside.set()
        before = ticks
        kernel(c, a, a, False, False, False)
        after = ticks
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        ticker.join()
    assert after > before + 1


def test_an_error_inside_a_parallel_kernel_reaches_the_caller_and_leaves_the_pool_working(
    four_threads,
):
    table = RNG.standard_normal((50, 300), dtype=np.float32)
    y = np.empty((4000, 300), np.float32)
    bad = np.full(4000, 60)
    with pytest.raises(IndexError, match="60"):
        backend.cpu().embedding_forward(y, table, bad, None, 1.0)
    assert work() == work()


@pytest.mark.parametrize("n", [0, -1, 257])
def test_a_wrong_number_of_threads_is_named(n):
    with pytest.raises(ValueError, match=f"between 1 and 256, got {n}"):
        byhand.set_num_threads(n)


def test_the_number_of_threads_must_be_an_int():
    with pytest.raises(TypeError, match="must be an int, got float"):
        byhand.set_num_threads(2.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(("setting", "expected"), [("3", 3), ("1", 1)])
def test_omp_num_threads_is_honoured(setting, expected):
    out = subprocess.run(
        [sys.executable, "-c", "import byhand; print(byhand.get_num_threads())"],
        env={**os.environ, "OMP_NUM_THREADS": setting},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert int(out.stdout) == expected


def test_by_default_no_more_threads_than_this_process_may_use():
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    out = subprocess.run(
        [sys.executable, "-c", "import byhand; print(byhand.get_num_threads())"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    allowed = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    assert 1 <= int(out.stdout) <= allowed


def test_a_forced_back_end_is_used_or_refused():
    code = "import byhand; print(byhand.info()['cpu_backend'])"
    run = [sys.executable, "-c", code]
    out = subprocess.run(
        run, env={**os.environ, "BYHAND_CPU": "base"}, capture_output=True, text=True, timeout=60
    )
    assert out.stdout.strip() == "cpu_base"
    out = subprocess.run(
        run, env={**os.environ, "BYHAND_CPU": "quantum"}, capture_output=True, text=True, timeout=60
    )
    assert out.returncode != 0
    assert "BYHAND_CPU asks for cpu_quantum, but this machine can run: cpu_base" in out.stderr
