"""`byhand bench` and its way of measuring."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from byhand import backend, roofline
from byhand.cli import bench, memory, turns
from byhand.cli.main import main
from byhand.errors import UserError


@pytest.fixture(autouse=True)
def small_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "outside_caches", lambda: 1 << 20)


def output(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["bench", *map(str, arguments)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


SHORT = ("--rounds", 2, "--batch", 1, "--context", 8)


def test_the_report_is_json(capsys: pytest.CaptureFixture[str]):
    report = json.loads(output(capsys, *SHORT, "--no-torch", "--json"))
    assert report["cpu_backend"] == report["roofline"]["backend"] == backend.cpu().name
    assert report["roofline"]["threads"] == report["threads"] == backend.get_num_threads()
    assert "torch" not in report
    tiny = report["presets"]["tiny"]
    assert (tiny["batch"], tiny["context"], tiny["vocabulary"]) == (1, 8, 65)
    assert list(tiny["results"]) == ["byhand float32", "byhand bf16"]
    for result in tiny["results"].values():
        parts = [result[f"{phase}_ms"] for phase in bench.PHASES]
        assert all(part > 0 for part in parts)
        assert max(parts) < result["step_ms"]
        assert result["tokens_per_second"] == pytest.approx(8 / result["step_ms"] * 1e3)


def test_the_printed_report_names_roofline_and_contestants(capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("torch")
    out = output(capsys, *SHORT, "--precision", "bf16")
    assert "roofline:" in out
    assert "beside PyTorch" in out
    rows = {line[:16].strip(): line[16:].split() for line in out.splitlines()}
    assert len(rows["PyTorch bf16"]) + 1 == len(rows["byhand bf16"])  # no ratio for PyTorch itself
    assert float(rows["byhand bf16"][-1]) > 0
    assert "byhand float32" not in rows


def test_without_pytorch_it_says_how_to_compare(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bench, "has_torch", lambda: False)
    command = (*SHORT, "--precision", "float32")
    out = output(capsys, *command)
    assert bench.NO_TORCH in out
    assert "byhand float32" in out
    assert "x PyTorch" in out
    assert bench.NO_TORCH not in output(capsys, *command, "--no-torch")


def test_only_bench_torch_needs_pytorch():
    code = (
        "import importlib, pkgutil, sys\n"
        "sys.modules['torch'] = None\n"
        "import byhand\n"
        "for module in pkgutil.walk_packages(byhand.__path__, 'byhand.'):\n"
        "    name = module.name\n"
        "    if '._' in name or name.endswith('bench_torch'):\n"
        "        continue\n"
        "    importlib.import_module(name)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_presets_are_timed_at_the_documented_sizes():
    assert bench.sizes("tiny") == dict(vocabulary=65, context=64, batch=12)
    assert bench.sizes("baby") == dict(vocabulary=65, context=256, batch=64)
    assert bench.sizes("gpt2") == dict(vocabulary=50257, context=64, batch=4)
    config = bench.config_of("gpt2", bench.sizes("gpt2"))
    assert (config.num_layers, config.embedding_dim, config.context_size) == (12, 768, 64)


def test_all_presets_in_one_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bench, "PRESETS", dict.fromkeys(("tiny", "guide")))
    command = ("--preset", "all", "--precision", "float32", "--no-torch", "--rounds", 1)
    report = json.loads(output(capsys, *command, "--batch", 1, "--context", 4, "--json"))
    assert list(report["presets"]) == ["tiny", "guide"]


def test_the_memory_of_all_contestants_is_checked(monkeypatch: pytest.MonkeyPatch):
    config = bench.config_of("gpt2", bench.sizes("gpt2"))  # 2 GB with its gradients and moments
    monkeypatch.setattr(memory.os, "sysconf", lambda name: 4 << 30 if "PAGES" in name else 1)
    memory.require_memory(config, 1)
    with pytest.raises(UserError, match="memory to train"):
        memory.require_memory(config, 1, copies=4)


def test_a_ratio_compares_the_same_precision():
    results = {
        "byhand float32": {"step_ms": 2.0},
        "PyTorch float32": {"step_ms": 5.0},
        "byhand bf16": {"step_ms": 1.0},
    }
    assert bench.times_torch("byhand float32", results) == 2.5
    assert bench.times_torch("byhand bf16", results) is None
    assert bench.times_torch("PyTorch float32", results) is None


class Clock:
    """A clock that advances only when a contestant runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.order: list[str] = []
        monkeypatch.setattr(turns.time, "perf_counter", lambda: self.now)

    def contestant(self, name: str, seconds: float):
        def run() -> int:
            self.order.append(name)
            self.now += seconds
            return len(self.order)

        return run


def test_contestants_take_turns(monkeypatch: pytest.MonkeyPatch):
    clock = Clock(monkeypatch)
    contestants = {"a": clock.contestant("a", 0.1), "b": clock.contestant("b", 0.2)}
    taken = turns.take_turns(contestants, rounds=3, warm_up=4)
    assert clock.order == ["a", "a", "b", "b"] * 7
    # Of each two runs the second counts, after four rounds of warming up.
    assert taken == {"a": [18, 22, 26], "b": [20, 24, 28]}


def test_a_long_run_and_a_single_contestant_need_no_uncounted_run_before(
    monkeypatch: pytest.MonkeyPatch,
):
    clock = Clock(monkeypatch)
    contestants = {"a": clock.contestant("a", 0.1), "b": clock.contestant("b", 2.0)}
    turns.take_turns(contestants, rounds=2, warm_up=1)
    assert clock.order == ["a", "a", "b", "b", "a", "a", "b", "a", "a", "b"]
    clock.order.clear()
    turns.take_turns({"a": clock.contestant("a", 0.1)}, rounds=2, warm_up=1)
    assert clock.order == ["a"] * 3


@pytest.mark.parametrize(
    ("seconds", "counted"),
    [(1.0, 3), (2.0, 3), (6.5, 4), (100.0, 8)],
    ids=["at once", "while warming up", "later", "never"],
)
def test_time_runs_out(monkeypatch: pytest.MonkeyPatch, seconds: float, counted: int):
    clock = Clock(monkeypatch)
    taken = turns.take_turns({"a": clock.contestant("a", 1.0)}, 8, 3, seconds=seconds)
    assert len(taken["a"]) == counted
    if seconds == 1.0:
        assert taken["a"] == [3, 4, 5]


def test_medians_are_of_each_phase_and_of_the_whole_step():
    steps = iter([(1.0, 5.0, 0.0), (2.0, 1.0, 1.0), (4.0, 0.0, 9.0)])
    medians = bench.measure({"a": lambda: next(steps)}, rounds=3, warm_up=0)
    assert medians["a"] == {"forward": 2.0, "backward": 1.0, "update": 1.0, "step": 6.0}
