"""bench/gpu.sh, with a stand-in for the interpreter that only writes down what it is asked to run;
and the rehearsal, which runs the real steps on the CUDA kernels for the CPU.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import byhand
from bench import collect
from byhand import backend
from byhand.models.gpt import PRESETS

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "bench" / "gpu.sh"
PARTS = {
    "first": ["build", "hopper", "kernels", "train_gpt2", "bench"],
    "check": ["build", "emulator", "tests"],
    "bench": ["build", "bench"],
    "train": ["build", "train_gpt2", "train_baby"],
    "sanitize": ["build", "memcheck", "racecheck", "synccheck"],
}
NEEDED = "bash cat date dirname env getconf mkdir rm sleep tail tee timeout uname wc".split()

pytestmark = pytest.mark.skipif(
    os.name == "nt" or not all(map(shutil.which, NEEDED)), reason="bash and coreutils are needed"
)

INTERPRETER = """\
#!/usr/bin/env bash
[ "$1" = - ] && cat > /dev/null && echo "python of the test" && exit
[ "$1" = -c ] && exit "$XDIST"
echo "$BYHAND_REQUIRE|$PYTHONPATH|$TEST_ROWS|$*" >> "$CALLS"
echo "output of $*"
[ -n "$FAILS" ] && [[ "$*" =~ $FAILS ]] && exit 3
[ -n "$HANGS" ] && [[ "$*" =~ $HANGS ]] && exec sleep 60
exit 0
"""


class Script:
    """Runs bench/gpu.sh with the stand-in, on a PATH without git and without NVIDIA's tools."""

    def __init__(self, folder: Path):
        self.out = folder / "out"
        self.calls = folder / "calls"
        tools = folder / "tools"
        tools.mkdir()
        for name in NEEDED:
            (tools / name).symlink_to(shutil.which(name) or "")
        interpreter = tools / "interpreter"
        interpreter.write_text(INTERPRETER)
        interpreter.chmod(0o755)
        self.environment = {
            "PATH": str(tools),
            "PYTHON": str(interpreter),
            "OUT": str(self.out),
            "BUILD": str(folder / "build"),
            "CALLS": str(self.calls),
            "XDIST": "0",
            "FAILS": "",
            "HANGS": "",
        }

    def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """-> status, output."""
        done = subprocess.run(
            ["bash", str(SCRIPT), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment | environment,
        )
        return done.returncode, done.stdout

    def steps(self) -> dict[str, int]:
        """The status of each step that was written, in their order."""
        rows = map(json.loads, (self.out / "steps.jsonl").read_text().splitlines())
        return {row["step"]: row["status"] for row in rows}


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["help"], 0), (["measure"], 2), ([], 2), (["plan", "all"], 2), (["rehearse", "plan"], 2)],
)
def test_it_explains_itself(arguments, status, script):
    found, said = script.run(*arguments)
    assert found == status
    assert said.startswith("bench/gpu.sh first")


@pytest.mark.parametrize("limit", ["0", "ten", "-5", "1.5"])
def test_a_limit_is_a_number_of_seconds(limit, script):
    assert script.run("first", LIMIT=limit) == (
        2,
        f"LIMIT must be a positive number of seconds, got {limit}\n",
    )


@pytest.mark.parametrize("part", PARTS)
def test_the_plan_takes_less_than_eight_minutes_and_runs_nothing(part, script):
    status, said = script.run("plan", part)
    rows = re.findall(r"^(\w+) +(\d+) s, to +(\d+) s: (.*)$", said, re.M)
    assert (status, [row[0] for row in rows]) == (0, PARTS[part])
    seconds = [int(row[1]) for row in rows]
    assert [int(row[2]) for row in rows] == [sum(seconds[: i + 1]) for i in range(len(rows))]
    assert said.endswith(f"planned: {sum(seconds)} s; the limit: 465 s\n")
    assert sum(seconds) <= 465
    assert not script.calls.exists()
    assert not script.out.exists()


@pytest.mark.parametrize("part", PARTS)
def test_each_step_is_run_once_in_the_planned_order(part, script):
    _, plan = script.run("plan", part)
    status, said = script.run(part)
    if part == "sanitize":  # there is no compute-sanitizer
        assert status == 1
        assert script.steps() == {"build": 0, "memcheck": 127, "racecheck": 127, "synccheck": 127}
        assert "not run: /usr/local/cuda/bin/compute-sanitizer was not found" in said
        return
    assert status == 0, said
    assert list(script.steps().items()) == [(name, 0) for name in PARTS[part]]
    planned = re.findall(r"^\w+ +\d+ s, to +\d+ s: \S+ (.*)$", plan, re.M)
    calls = [line.split("|") for line in script.calls.read_text().splitlines()]
    assert [re.sub(r"--seconds \d+", "--seconds %left", c[-1]) for c in calls] == planned
    for required, path, rows, _ in calls:
        assert required == "cuda"
        assert path == f"{script.environment['BUILD']}/site"
        assert rows == str(script.out / "tests.jsonl")
    log = (script.out / "log.txt").read_text()
    assert [log.count(f"== {name}, at most") for name in PARTS[part]] == [1] * len(calls)
    assert all(f"output of {call[-1]}\n" in log for call in calls)


def test_the_programs_have_what_the_steps_ask_for(script):
    for part in PARTS:
        _, plan = script.run("plan", part)
        for path in re.findall(r"tests/\S+", plan):
            assert (ROOT / path).exists(), path
        for module in re.findall(r"-[mp] (bench\S+)", plan):
            assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
        for preset in re.findall(r"gpu_train (\S+)", plan):
            assert preset in PRESETS
        for ops in re.findall(r"--ops (.*)", plan):
            assert set(ops.split()) <= set(collect.modules())


def test_what_fails_costs_only_itself(script):
    status, said = script.run("first", FAILS="test_hopper|gpu_train")
    assert status == 1
    assert script.steps() == {"build": 0, "hopper": 3, "kernels": 0, "train_gpt2": 3, "bench": 0}
    assert said.rstrip().endswith("FAILED: hopper train_gpt2")
    assert "all steps passed" not in said


def test_nothing_is_run_without_a_build(script):
    status, said = script.run("first", FAILS="pip install")
    assert (status, script.steps()) == (1, {"build": 3})
    assert said.rstrip().endswith("FAILED: build")
    assert (script.out / "machine.txt").read_text()
    status, _ = script.run("check", FAILS="emulator")
    assert (status, script.steps()) == (1, {"build": 0, "emulator": 3, "tests": 0})


def test_a_step_that_does_not_end_is_stopped_and_the_next_ones_have_their_time(script):
    status, said = script.run("first", HANGS="test_kernels", LIMIT="20")
    assert (status, script.steps()) == (
        1,
        {"build": 0, "hopper": 0, "kernels": 124, "train_gpt2": 0, "bench": 0},
    )
    assert re.search(r"FAILED with status 124 after \d+ s", said)
    (seconds,) = re.findall(r"--seconds (\d+)", script.calls.read_text())
    assert int(seconds) >= 5


def test_a_build_that_is_slow_may_take_half_of_the_time(script):
    # The seconds before the first step are taken from it, so that a slow machine allows less.
    _, said = script.run("first", LIMIT="100")
    most = [int(n) for n in re.findall(r"^== \w+, at most (\d+) s", said, re.M)]
    assert 40 < most[0] <= 50  # its share of the plan would be 20
    assert most[1] <= 100 * 40 // 350 + 1
    _, said = script.run("first")
    (most,) = re.findall(r"^== build, at most (\d+) s", said, re.M)
    assert 222 < int(most) <= 232  # half of 465


def test_the_circumstances_are_written_first_and_what_is_missing_is_said(script):
    script.run("bench", FAILS="pip install", COMMIT="abc123")
    found = (script.out / "machine.txt").read_text()
    assert "commit abc123\n" in found
    assert "python of the test\n" in found
    assert "nvidia-smi: command not found" in found
    assert "nvcc: command not found" in found
    script.run("bench", FAILS="pip install")
    assert "commit unknown\n" in (script.out / "machine.txt").read_text()


def test_without_xdist_tests_run_in_one_process(script):
    script.run("first", XDIST="1")
    tests = [call for call in script.calls.read_text().splitlines() if "-m pytest" in call]
    assert len(tests) == 2
    assert not any(" -n " in call or "--dist" in call for call in tests)
    assert all("-o addopts=--strict-markers" in call for call in tests)


def test_a_package_that_is_built_is_not_built_again(script):
    assert script.run("check", SITE="/elsewhere")[0] == 0
    assert list(script.steps()) == ["tests"]
    assert {call.split("|")[1] for call in script.calls.read_text().splitlines()} == {"/elsewhere"}


def test_the_text_that_is_trained_on_is_passed_on(script):
    script.run("train", DATA="/a text.txt")
    calls = script.calls.read_text().splitlines()
    assert [call.endswith(" --data /a text.txt") for call in calls] == [False, False, True]


def test_a_rehearsal_runs_the_same_steps_on_the_cpu(script):
    status, said = script.run("rehearse", "first", SITE="/elsewhere")
    assert status == 0
    assert list(script.steps()) == PARTS["first"][1:]
    calls = [line.split("|") for line in script.calls.read_text().splitlines()]
    assert all(call[0] == "" for call in calls)
    for call in calls:
        assert "-m not gpu and not deep" in call[-1] or "--on-cpu" in call[-1]
    assert "nothing here was measured on a GPU" in said


@pytest.mark.deep
def test_the_rehearsal_of_the_first_run(tmp_path):
    if "cuda_on_cpu" not in backend.built_modules():
        pytest.skip("the CUDA kernels for the CPU are not installed")
    environment = {
        "PYTHON": sys.executable,
        "SITE": str(Path(byhand.__file__).parents[1]),
        "OUT": str(tmp_path / "out"),
        "BUILD": str(tmp_path / "build"),
    }
    done = subprocess.run(
        ["bash", str(SCRIPT), "rehearse"],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stdout
    out = tmp_path / "out"
    steps = [json.loads(line) for line in (out / "steps.jsonl").read_text().splitlines()]
    assert [(step["step"], step["status"]) for step in steps] == [
        (name, 0) for name in PARTS["first"][1:]
    ]
    tests = [json.loads(line) for line in (out / "tests.jsonl").read_text().splitlines()]
    assert len(tests) > 100
    assert {test["outcome"] for test in tests} == {"passed"}
    measured = {path.name for path in (out / "dry-run-on-the-cpu").iterdir()}
    assert measured == {"kernels.json", "kernels.md", "train_gpt2.json"}
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) == 7
