"""A plugin of pytest for runs that may be cut short: `-p bench.pytest_rows`.

It mixes the tests, always in the same way, so that the first minute has run some tests of every op.
The outcome of each test is appended as a line of JSON to the file that the variable TEST_ROWS
names, as soon as it is known, with the message of a failure. Tests that were started and did not
end are listed when pytest is interrupted.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import pytest

MOST = 4000  # characters of a failure


def pytest_configure(config: pytest.Config) -> None:
    path = os.environ.get("TEST_ROWS")
    if path and not hasattr(config, "workerinput"):  # with pytest-xdist, not in its workers
        config.pluginmanager.register(Rows(Path(path)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: zlib.crc32(item.nodeid.encode()))


class Rows:
    def __init__(self, path: Path):
        self._path = path
        self._running: dict[str, None] = {}

    def _write(self, test: str, outcome: str, **more: Any) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"test": test, "outcome": outcome, **more}) + "\n")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._running[nodeid] = None

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._running.pop(nodeid, None)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        why = {} if report.passed else {"why": report.longreprtext[-MOST:]}
        self._write(report.nodeid, report.outcome, seconds=round(report.duration, 3), **why)

    def pytest_keyboard_interrupt(self) -> None:
        # Before pytest-xdist waits for its workers, which may not come back from a kernel.
        for test in self._running:
            self._write(test, "not finished")
        self._running.clear()

    def pytest_sessionfinish(self) -> None:
        self.pytest_keyboard_interrupt()
