"""Which tests run which lines: a plugin of pytest that records them, and one that selects tests.

A line is named by its file, the function around it and its text, so that a record outlives changes
elsewhere in the file.

    BYHAND_MUTATION_PACKAGE    the folder of the package
    BYHAND_MUTATION_RECORD     the file that gets one JSON line for each test
    BYHAND_MUTATION_SELECT     a JSON list of the tests to run, in this order
    BYHAND_MUTATION_CHILDREN   the folder where processes started by a test leave their lines
"""

from __future__ import annotations

import ast
import atexit
import json
import os
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

CALLS = 20  # of each function whose lines are recorded, in one test


class Recorder:
    """Collects the (file, line) pairs of a package that are executed."""

    def __init__(self, package: Path):
        self.prefix = str(package) + os.sep
        self.lines: set[tuple[str, int]] = set()
        self._calls: Counter[CodeType] = Counter()
        self._inside: dict[CodeType, bool] = {}

    def start(self) -> None:
        threading.settrace(self._call)
        sys.settrace(self._call)

    def take(self) -> set[tuple[str, int]]:
        """The lines since the last `take`."""
        lines, self.lines = self.lines, set()
        self._calls.clear()
        return lines

    def _call(self, frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        inside = self._inside.get(code)
        if inside is None:
            inside = self._inside[code] = code.co_filename.startswith(self.prefix)
        if not inside or code.co_name == "<module>":
            return None
        self._calls[code] += 1
        return self._line if self._calls[code] <= CALLS else None

    def _line(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line":
            self.lines.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line


class Names:
    """Names of lines: "file|function|text"."""

    def __init__(self, package: Path):
        self.package = package
        self._files: dict[str, list[str]] = {}

    def of(self, path: str, line: int) -> str:
        names = self._files.get(path)
        if names is None:
            file = Path(path).relative_to(self.package).as_posix()
            names = self._files[path] = names_of(file, Path(path).read_bytes())
        return names[line - 1]


def names_of(file: str, source: bytes) -> list[str]:
    """The name of each line of a file."""
    texts = source.decode().split("\n")
    functions = [""] * len(texts)

    def mark(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner = prefix
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                inner = f"{prefix}.{child.name}" if prefix else child.name
                first = min([child.lineno, *(d.lineno for d in child.decorator_list)])
                assert child.end_lineno is not None
                functions[first - 1 : child.end_lineno] = [inner] * (child.end_lineno - first + 1)
            mark(child, inner)

    mark(ast.parse(source), "")
    return [f"{file}|{f}|{text.strip()}" for f, text in zip(functions, texts, strict=True)]


def record_child() -> None:
    """Records the lines of this process, if a test that is recorded has started it."""
    folder = os.environ.get("BYHAND_MUTATION_CHILDREN")
    if folder is None or _record is not None:
        return
    recorder = Recorder(Path(os.environ["BYHAND_MUTATION_PACKAGE"]))

    def leave() -> None:
        sys.settrace(None)
        path = Path(folder) / f"{os.getpid()}.json"
        path.write_text(json.dumps(sorted(recorder.lines)))

    atexit.register(leave)
    recorder.start()


# --- The plugin ----------------------------------------------------------------------------------


class RecordPlugin:
    """Writes {"test", "seconds", "passed", "lines"} for each test, and, with the test "", the lines
    that run while the tests are imported.
    """

    def __init__(self) -> None:
        package = Path(os.environ["BYHAND_MUTATION_PACKAGE"])
        self.names = Names(package)
        self.recorder = Recorder(package)
        path = Path(os.environ.pop("BYHAND_MUTATION_RECORD"))
        self.file = open(path, "a", encoding="utf-8")
        self.children = path.with_suffix(".children")
        shutil.rmtree(self.children, ignore_errors=True)
        self.children.mkdir()
        os.environ["BYHAND_MUTATION_CHILDREN"] = str(self.children)
        self.passed = True
        self.recorder.start()

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = [item for item in items if not _only_compiled(item)]

    def pytest_collection_finish(self) -> None:
        self.write("", 0.0)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed or (report.skipped and report.when != "teardown"):
            self.passed = False

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Iterator[Any]:
        self.recorder.take()
        self.passed = True
        started = time.perf_counter()
        result = yield
        seconds = time.perf_counter() - started
        self.write(item.nodeid, seconds)
        return result

    def write(self, test: str, seconds: float) -> None:
        found = self.recorder.take()
        for path in self.children.glob("*.json"):
            try:
                found |= {(file, line) for file, line in json.loads(path.read_text())}
            except ValueError:  # the process was killed while it wrote
                continue
            finally:
                path.unlink()
        record = {
            "test": test,
            "seconds": round(seconds, 4),
            "passed": self.passed,
            "lines": sorted({self.names.of(file, line) for file, line in found}),
        }
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()


def _only_compiled(item: Any) -> bool:
    """Whether a test only runs other compiled code than another test: a CUDA kernel, or another
    back end than the best one. Compiled code is not edited.
    """
    from byhand import backend

    others = {"on_cpu", "on_gpu", *backend.cpu_modules()} - {backend.cpu().name}
    used = getattr(item, "callspec", None)
    return used is not None and any(
        isinstance(value, str) and value in others for value in used.params.values()
    )


class SelectPlugin:
    """Runs these tests only, in this order."""

    def __init__(self) -> None:
        selected = json.loads(Path(os.environ["BYHAND_MUTATION_SELECT"]).read_text())
        self.order = {name: i for i, name in enumerate(selected)}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = [item for item in items if item.nodeid in self.order]
        items.sort(key=lambda item: self.order[item.nodeid])


# Made here, before pytest imports any conftest.py and with it the package.
_record = RecordPlugin() if "BYHAND_MUTATION_RECORD" in os.environ else None


def pytest_configure(config: Any) -> None:
    if _record is not None:
        config.pluginmanager.register(_record)
    if "BYHAND_MUTATION_SELECT" in os.environ:
        config.pluginmanager.register(SelectPlugin())
