"""Every flag of `byhand bench` reaches the measurement, and its numbers are those of the help."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from byhand import backend, roofline
from byhand.cli import bench
from byhand.cli.main import main
from byhand.models.gpt import GPTConfig
from tests.wiring.test_flags_wiring import flags_of

USUAL: dict[str, Any] = {
    "models": [(4, 65, 64, 12)],  # layers, vocabulary, context, batch
    "precisions": ("float32", "bf16"),
    "torch": True,
    "rounds": 20,
    "seconds": 20.0,
    "threads": 1,
}
FLAGS: dict[str, tuple[str, dict[str, Any]]] = {
    "--preset": (
        "all",
        {"models": [(4, 65, 64, 12), (6, 65, 64, 64), (6, 65, 256, 64), (12, 50257, 64, 4)]},
    ),
    "--precision": ("bf16", {"precisions": ("bf16",)}),
    "--batch": ("5", {"models": [(4, 65, 64, 5)]}),
    "--context": ("9", {"models": [(4, 65, 9, 12)]}),
    "--vocabulary": ("70", {"models": [(4, 70, 64, 12)]}),
    "--rounds": ("2", {"rounds": 2, "seconds": math.inf}),
    "--no-torch": ("", {"torch": False}),
    "--threads": ("2", {"threads": 2}),
}


def test_every_flag_of_bench_has_a_test():
    assert flags_of("bench") == {*FLAGS, "--json"}


@pytest.fixture
def threads() -> Any:
    before = backend.get_num_threads()
    backend.set_num_threads(1)
    yield
    backend.set_num_threads(before)


def measured(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the steps are made of and measured with; and the report."""
    seen: dict[str, Any] = {"models": []}
    limits = roofline.Roofline("cpu_base", 1, 100.0, None, 9.0, 8.0, 7.0, 6.0, 1 << 20, 1 << 24)

    def contestants(config: GPTConfig, batch: int, precisions: Any, torch: bool) -> Any:
        assert config.dropout == 0
        sizes = (config.num_layers, config.vocabulary_size, config.context_size, batch)
        seen["models"].append(sizes)
        seen.update(precisions=precisions, torch=torch)
        return {}

    def measure(steps: Any, rounds: int, seconds: float) -> Any:
        seen.update(rounds=rounds, seconds=seconds, threads=backend.get_num_threads())
        return {"byhand float32": {"forward": 0.5, "backward": 1.0, "update": 0.25, "step": 2.0}}

    monkeypatch.setattr(bench, "contestants", contestants)
    monkeypatch.setattr(bench, "measure", measure)
    monkeypatch.setattr(bench, "has_torch", lambda: True)
    monkeypatch.setattr(bench, "share_threads", lambda: None)
    about = {"version": "0", "cpu_backend": "cpu_base", "threads": 1}
    monkeypatch.setattr(bench, "machine", lambda torch: {**about, "torch": "2" if torch else None})
    monkeypatch.setattr(bench, "require_memory", lambda *a, **k: None)
    monkeypatch.setattr(roofline, "measure", lambda: limits)
    assert main(["bench", "--json", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    return seen, json.loads(lines[0])


@pytest.mark.parametrize("flag", [None, *FLAGS])
def test_a_flag_changes_the_measurement(
    flag: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    threads: None,
):
    value, changes = FLAGS[flag] if flag else ("", {})
    arguments = [word for word in (flag, value) if word]
    seen, report = measured(arguments, monkeypatch, capsys)
    assert seen == {**USUAL, **changes}
    results = next(iter(report["presets"].values()))["results"]["byhand float32"]
    assert [results[f"{phase}_ms"] for phase in (*bench.PHASES, "step")] == [500, 1000, 250, 2000]


def test_the_numbers_are_those_of_the_formula():
    """6 operations for each parameter used in a product and each token, and 12 L C T."""
    config = GPTConfig(
        vocabulary_size=11, context_size=7, embedding_dim=8, num_heads=2, num_layers=3
    )
    products = 3 * (4 * 8 * 8 + 2 * 8 * 32) + 11 * 8
    assert bench.flops_per_token(config) == 6 * products + 12 * 3 * 8 * 7
    phases = {"forward": 0.5, "backward": 1.0, "update": 0.25, "step": 2.0}
    made = bench.summary(phases, config, 5)
    assert made == {
        "forward_ms": 500,
        "backward_ms": 1000,
        "update_ms": 250,
        "step_ms": 2000,
        "tokens_per_second": 5 * 7 / 2,
        "gflops": pytest.approx(5 * 7 * (6 * products + 12 * 3 * 8 * 7) / 2 / 1e9),
    }


def test_medians_are_taken_of_each_phase_and_of_the_whole_step():
    times = iter([(9.0, 9.0, 9.0)] * 2 + [(1.0, 5.0, 0.0), (2.0, 1.0, 4.0), (3.0, 3.0, 2.0)])
    found = bench.measure({"one": lambda: next(times)}, 3, warm_up=2)
    assert found == {"one": {"forward": 2.0, "backward": 3.0, "update": 2.0, "step": 7.0}}


def test_the_table_shows_the_share_of_the_roofline_and_the_ratio_to_pytorch():
    row = {"forward_ms": 1.0, "backward_ms": 2.0, "update_ms": 0.5, "step_ms": 4.0}
    row |= {"tokens_per_second": 1500.0, "gflops": 40.0}
    rival = {**row, "step_ms": 10.0}
    report = {
        "roofline": {"gflops": 100.0, "bf16_gflops": 160.0},
        "presets": {
            "tiny": {
                "batch": 5,
                "context": 7,
                "vocabulary": 1100,
                "results": {
                    "byhand float32": row,
                    "byhand bf16": row,
                    "PyTorch float32": rival,
                },
            }
        },
    }
    lines = bench.table("tiny", report).splitlines()
    assert lines[1] == "tiny: batch 5, context 7, vocabulary 1,100"
    assert lines[3].split() == (
        "byhand float32 1.00 ms 2.00 ms 0.50 ms 4.00 ms 1,500 40 40 % 2.50".split()
    )
    assert lines[4].split() == "byhand bf16 1.00 ms 2.00 ms 0.50 ms 4.00 ms 1,500 40 25 %".split()
