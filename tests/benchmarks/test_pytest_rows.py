"""bench/pytest_rows.py: what is known of a run of tests that is cut short."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TESTS = """\
import os
import time

import pytest


@pytest.mark.parametrize("i", range(20))
def test_passes(i):
    rows = open(os.environ["TEST_ROWS"]).read() if os.path.exists(os.environ["TEST_ROWS"]) else ""
    assert f"passes[{i}]" not in rows


def test_fails():
    assert 1 + 1 == 3


@pytest.fixture
def broken():
    raise OSError("no such thing")


def test_errors(broken):
    pass


@pytest.mark.skipif(True, reason="not here")
def test_skipped():
    pass


@pytest.mark.skipif("STOPS" not in os.environ, reason="goes on")
def test_is_interrupted():
    raise KeyboardInterrupt
"""


def run(folder: Path, *flags: str, **environment: str) -> list[dict[str, Any]]:
    (folder / "test_some.py").write_text(TESTS)
    rows = folder / "rows.jsonl"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "bench.pytest_rows", *flags, str(folder)]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    subprocess.run(
        command,
        env={**inherited, "PYTHONPATH": str(ROOT), "TEST_ROWS": str(rows), **environment},
        cwd=folder,
        capture_output=True,
    )
    return [json.loads(line) for line in rows.read_text().splitlines()]


@pytest.mark.parametrize("flags", [(), ("-n", "2", "--dist", "worksteal")], ids=["one", "xdist"])
def test_every_outcome_is_a_row(flags, tmp_path):
    if flags:
        pytest.importorskip("xdist")
    rows = {row["test"].partition("::")[2]: row for row in run(tmp_path, *flags)}
    passed = {f"test_passes[{i}]" for i in range(20)}
    assert rows.keys() == passed | {
        "test_fails",
        "test_errors",
        "test_skipped",
        "test_is_interrupted",
    }
    assert {name for name, row in rows.items() if row["outcome"] == "passed"} == passed
    assert rows["test_fails"]["outcome"] == rows["test_errors"]["outcome"] == "failed"
    assert "assert (1 + 1) == 3" in rows["test_fails"]["why"]
    assert "OSError: no such thing" in rows["test_errors"]["why"]
    assert rows["test_skipped"]["outcome"] == "skipped"
    assert all("why" not in rows[name] and rows[name]["seconds"] >= 0 for name in passed)
    assert list(rows) != [f"test_passes[{i}]" for i in range(20)] + list(rows)[20:]  # mixed


def test_a_run_that_is_interrupted_says_which_test_did_not_finish(tmp_path):
    rows = run(tmp_path, STOPS="1")
    assert rows[-1] == {
        "test": "test_some.py::test_is_interrupted",
        "outcome": "not finished",
    }
    again = run(tmp_path, STOPS="1")[len(rows) :]
    assert [row["test"] for row in again] == [row["test"] for row in rows]  # in the same order


HANGS = """\
import hashlib


def test_hangs():
    hashlib.pbkdf2_hmac("sha256", b"a", b"b", 10**9)  # not interrupted by a signal


def test_passes():
    pass
"""


@pytest.mark.deep
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
def test_a_test_that_hangs_in_a_worker_is_named_before_everything_is_killed(tmp_path):
    pytest.importorskip("xdist")
    (tmp_path / "test_some.py").write_text(HANGS)
    rows = tmp_path / "rows.jsonl"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "bench.pytest_rows", "-n", "2"]
    with subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TEST_ROWS": str(rows)},
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            while not rows.exists():
                time.sleep(0.1)
            os.killpg(process.pid, signal.SIGINT)
            while len(rows.read_text().splitlines()) < 2:
                time.sleep(0.1)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    passed, hangs = map(json.loads, rows.read_text().splitlines())
    assert (passed["test"], passed["outcome"]) == ("test_some.py::test_passes", "passed")
    assert hangs == {"test": "test_some.py::test_hangs", "outcome": "not finished"}
