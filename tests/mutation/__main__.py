"""The command line: record the tests of each line, try edits one at a time, report the score."""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.mutation.edits import Edit, all_edits, choose, sources_of
from tests.mutation.lines import names_of

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "python" / "byhand"

# Tests of compiled code, of the source tree, and of tools outside the package.
NOT_USED = (
    "tests/core/",
    "tests/benchmarks/",
    "tests/mutation/",
    "tests/test_architecture.py",
    "tests/test_readme.py",
    "tests/ops/test_past_caches.py",
)
# Of the tests of CUDA only those that run the package's Python code.
USED = (
    "tests/cuda/test_plan_wiring.py",
    "tests/cuda/test_step.py",
    "tests/cuda/test_training.py",
    "tests/cuda/test_without_device.py",
)

FIRST_SECONDS = 3.0  # of the tests tried first; most edits fail here
ALL_SECONDS = 60.0  # of all the tests of an edit
TEST_SECONDS = 20.0  # a slower test is not used

NO_TESTS = 5  # pytest's exit status where no test that was recorded is left


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--edits", type=int, default=200, help="how many edits (200)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of edits (0)")
    parser.add_argument(
        "--out", type=Path, help="folder of the results; a stopped run continues (a temporary one)"
    )
    parser.add_argument("--again", action="store_true", help="try again the edits that lived")
    parser.add_argument("--list", action="store_true", help="print the edits, do not try them")
    args = parser.parse_args()

    work = Path(tempfile.gettempdir()) / f"byhand-mutation-{_hash(str(ROOT))}"
    out = args.out or work / f"results-{args.edits}-{args.seed}"
    out.mkdir(parents=True, exist_ok=True)
    sources = sources_of(PACKAGE)
    edits = chosen_edits(out / "edits.json", sources, args.edits, args.seed)
    if args.list:
        for edit in edits:
            print(f"{edit.file}:{edit.line} {edit.kind}\n{diff(edit, sources[edit.file])}")
        return 0
    copy = Copy(work)
    tests = Tests(record_all(work, copy), sources)
    results = Results(out / "results.jsonl")
    for i, edit in enumerate(edits, 1):
        key = edit.key(sources[edit.file])
        before = results.of(key)
        if before is not None and not (args.again and before["result"] == "lived"):
            continue
        result = try_edit(edit, sources[edit.file], tests, copy, work)
        results.add({"key": key, **result})
        print(f"{i}/{len(edits)} {result['result']} in {result['seconds']:.0f} s: ", end="")
        print(f"{edit.file}:{edit.line} {edit.kind}", flush=True)
    return report(results, edits, sources)


def chosen_edits(path: Path, sources: dict[str, bytes], count: int, seed: int) -> list[Edit]:
    """The edits that `path` lists, or new ones, which it lists from now on."""
    edits = all_edits(sources)
    if not path.exists():
        keys = [edit.key(sources[edit.file]) for edit in choose(edits, count, seed)]
        path.write_text(json.dumps(keys, indent=1))
    every = [edit for found in edits.values() for statement in found for edit in statement]
    by_key = {edit.key(sources[edit.file]): edit for edit in every}
    keys = json.loads(path.read_text())
    if gone := [key for key in keys if key not in by_key]:
        print(f"{len(gone)} edits are left out: their code has changed")
    return [by_key[key] for key in keys if key in by_key]


class Copy:
    """A copy of the package in which one file at a time is edited."""

    def __init__(self, work: Path):
        self.folder = work / "package"
        self.package = self.folder / "byhand"
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(PACKAGE, self.package, ignore=shutil.ignore_patterns("__pycache__"))
        for path in PACKAGE.parent.glob("byhand_*.*"):  # compiled modules beside the package
            shutil.copy(path, self.folder)
        subprocess.run([sys.executable, "-m", "compileall", "-q", self.package], check=True)

    def write(self, file: str, source: bytes) -> None:
        path = self.package / file
        path.write_bytes(source)
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            compiled.unlink()


def pytest(
    copy: Copy,
    arguments: Iterable[str],
    env: dict[str, str],
    timeout: float | None,
    hooks: str = "",
) -> tuple[int, str]:
    """The exit status of pytest with the copy of the package, and its output; -1 after `timeout`
    seconds.
    """
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("-o", "addopts=--strict-markers -m 'not deep'", "-p", "tests.mutation.lines"),
            *arguments,
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(copy.folder), hooks])),
            "OMP_NUM_THREADS": "1",
            "BYHAND_MUTATION_PACKAGE": str(copy.package),
            **env,
        },
    )
    try:
        output, _ = process.communicate(timeout=timeout)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        return -1, ""
    finally:
        if process.poll() is None:
            if hasattr(os, "killpg"):
                os.killpg(process.pid, 9)
            process.kill()
            process.wait()


def record_all(work: Path, copy: Copy) -> list[dict[str, Any]]:
    """The records of all tests; those of a test file are made again when it has changed."""
    hooks = work / "hooks"
    hooks.mkdir(exist_ok=True)
    (hooks / "sitecustomize.py").write_text(
        f"import sys\nsys.path.append({str(ROOT)!r})\n"
        "from tests.mutation.lines import record_child\nrecord_child()\n"
    )
    folder = work / "records"
    folder.mkdir(exist_ok=True)
    records: list[dict[str, Any]] = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        name = path.relative_to(ROOT).as_posix()
        unused = name.startswith(("tests/cuda/", "tests/example_op/", *NOT_USED))
        if unused and name not in USED:
            continue
        saved = folder / f"{name.replace('/', '.')}.{_hash(path.read_text())}.jsonl"
        if not saved.exists():
            print(f"recording the lines of {name}", flush=True)
            made = saved.with_suffix(".new")
            made.unlink(missing_ok=True)
            made.touch()
            pytest(copy, [name], {"BYHAND_MUTATION_RECORD": str(made)}, 300, str(hooks))
            made.replace(saved)
        records += [json.loads(line) for line in saved.read_text().splitlines()]
    return records


class Tests:
    """The tests of each line and of each function, the fastest first."""

    def __init__(self, records: list[dict[str, Any]], sources: dict[str, bytes]):
        self.at_import = {line for r in records if not r["test"] for line in r["lines"]}
        usable = [r for r in records if r["test"] and r["passed"] and r["seconds"] < TEST_SECONDS]
        usable.sort(key=lambda record: record["seconds"])
        self.seconds = {record["test"]: record["seconds"] for record in usable}
        self.names = {file: names_of(file, source) for file, source in sources.items()}
        self._of_line: dict[str, list[str]] = defaultdict(list)
        self._of_function: dict[str, list[str]] = defaultdict(list)
        self._of_file: dict[str, list[str]] = defaultdict(list)
        for record in usable:
            functions = {line.rpartition("|")[0] for line in record["lines"]}
            for line in record["lines"]:
                self._of_line[line].append(record["test"])
            # A class has the tests of its methods.
            for function in functions | {f.rpartition(".")[0] for f in functions if "." in f}:
                self._of_function[function].append(record["test"])
            for file in {function.partition("|")[0] for function in functions}:
                self._of_file[file].append(record["test"])

    def of(self, edit: Edit) -> list[str]:
        """The tests that run the statement of an edit, in the order to try them."""
        found: set[str] = set()
        if edit.lines is not None:
            first, last = edit.lines
            for name in self.names[edit.file][first - 1 : last]:
                found |= set(self._of_line[name])
                if name in self.at_import:
                    found |= set(self._of_file[edit.file])
        # A line that no test is known to run may run in a process that was killed.
        found = found or set(self._of_function[f"{edit.file}|{edit.function}"])
        found = found or set(self._of_file[edit.file])
        return self._ordered(found, edit.file)

    def _ordered(self, tests: set[str], file: str) -> list[str]:
        """Those of the file's own tests first, then of others; of each test function in turn."""
        stem = Path(file).stem
        groups: dict[str, list[str]] = defaultdict(list)
        for test in sorted(tests, key=lambda test: (self.seconds[test], test)):
            groups[test.partition("[")[0]].append(test)
        own = {name for name in groups if stem in name.partition("::")[0]}
        rounds = []
        for name, group in groups.items():
            for turn, test in enumerate(group):
                cost = self.seconds[test] * (0.3 if name in own else 1.0)
                rounds.append((cost * (1 + turn), test))
        return [test for _, test in sorted(rounds)]


def try_edit(edit: Edit, source: bytes, tests: Tests, copy: Copy, work: Path) -> dict[str, Any]:
    """Runs the tests of an edit until one fails."""
    started = time.monotonic()
    covering = tests.of(edit)
    chosen, total = [], 0.0
    for test in covering:
        if total + tests.seconds[test] <= ALL_SECONDS:
            total += tests.seconds[test]
            chosen.append(test)
    first, total = 0, 0.0
    while first < len(chosen) and (total := total + tests.seconds[chosen[first]]) < FIRST_SECONDS:
        first += 1
    first = max(first, 1)
    copy.write(edit.file, edit.apply(source))
    output, status = "", 0
    try:
        for part in (chosen[:first], chosen[first:]):
            if part and status == 0:
                select = work / "select.json"
                select.write_text(json.dumps(part))
                files = sorted({test.partition("::")[0] for test in part})
                limit = 30 + 3 * sum(tests.seconds[test] for test in part)
                status, output = pytest(
                    copy, ["-x", *files], {"BYHAND_MUTATION_SELECT": str(select)}, limit
                )
                status = 0 if status == NO_TESTS else status
    finally:
        copy.write(edit.file, source)
    return {
        "result": "killed" if status else "lived",
        "by": _failure(output) if status > 0 else "timeout" if status else "",
        "tests": len(chosen),
        "of": len(covering),
        "seconds": round(time.monotonic() - started, 1),
    }


def _failure(output: str) -> str:
    lines = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return lines[0][:300] if lines else output[-300:]


class Results:
    """The results so far, one JSON line each; the last of an edit counts."""

    def __init__(self, path: Path):
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self._found = {record["key"]: record for record in map(json.loads, lines)}

    def of(self, key: str) -> dict[str, Any] | None:
        return self._found.get(key)

    def add(self, record: dict[str, Any]) -> None:
        self._found[record["key"]] = record
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def report(results: Results, edits: list[Edit], sources: dict[str, bytes]) -> int:
    """Prints the edits that lived and the score; 1 if any lived."""
    lived = []
    for edit in edits:
        found = results.of(edit.key(sources[edit.file]))
        assert found is not None
        if found["result"] == "lived":
            lived.append(edit)
            print(f"\n{edit.file}:{edit.line} lived: {edit.kind}", end=" ")
            print(f"({found['tests']} of {found['of']} tests that run the line)")
            print(diff(edit, sources[edit.file]))
    killed = len(edits) - len(lived)
    print(
        f"{killed} of {len(edits)} edits were noticed ({100 * killed / max(len(edits), 1):.1f} %)"
    )
    return 1 if lived else 0


def diff(edit: Edit, source: bytes) -> str:
    old, new = (text.decode().splitlines() for text in (source, edit.apply(source)))
    return "\n".join(list(difflib.unified_diff(old, new, n=0, lineterm=""))[2:])


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


if __name__ == "__main__":
    sys.exit(main())
