"""bench/models/gpu_train.py without a GPU: on the stand-in for cupy, beside PyTorch on the CPU."""

from __future__ import annotations

import copy
import itertools
import json
import os
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from bench.models import gpu_train
from byhand import GPTConfig, backend
from byhand.cli import bench

CONFIG = GPTConfig(vocabulary_size=24, context_size=8, embedding_dim=16, num_heads=2, num_layers=1)
TWO = ("byhand", "PyTorch")


@pytest.fixture
def brief(monkeypatch):
    """Few steps, and a fixed time instead of the clock: a second for each look at it."""
    monkeypatch.setattr(gpu_train, "STEPS", 4)
    monkeypatch.setattr(gpu_train, "MODULE", "cuda_on_cpu")
    ticks = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: float(next(ticks)))
    monkeypatch.setattr(gpu_train, "time", clock)

    def once(runs, rounds):
        for run in runs.values():
            run()
        return dict.fromkeys(runs, 2.0)

    monkeypatch.setattr(gpu_train, "in_turns", once)


def fake(first, later=1.0):
    """Instead of PyTorch: steps with these losses."""
    return lambda model, device, compiled: lambda batches: [first] + [later] * (len(batches) - 1)


def test_a_row(cupy, brief):
    pytest.importorskip("torch")
    row = gpu_train.compare(CONFIG, batch=3, rounds=1, device="cpu", contestants=TWO)
    assert row["not_run"] == {}
    assert row["tokens_per_second"] == {"byhand": 96, "PyTorch": 96}  # 4 x 3 x 8 in 1 s
    peak = 2 * 256**3 / 2.0
    expected = round(96 * bench.flops_per_token(CONFIG) / peak, 4)
    assert row["utilisation"] == {"byhand": expected, "PyTorch": expected}
    losses = row["first_losses"]
    np.testing.assert_allclose(losses["byhand"], losses["PyTorch"], atol=0.02)
    assert losses["byhand"][0] == pytest.approx(np.log(24), abs=0.2)
    assert row["disagreements"] == []
    later = np.abs(np.subtract(losses["byhand"], losses["PyTorch"])[1:]).max()
    found = row["largest_difference_of_later_losses"]
    assert found == {"byhand": 0.0, "PyTorch": pytest.approx(later, abs=2e-4)}
    assert len(cupy.graphs) == 1


@pytest.mark.parametrize(
    ("first", "later", "disagree"),
    [(np.log(24), 1.0, False), (np.log(24) + 1, 1.0, True), (np.nan, 1.0, True)],
    ids=["later", "first", "nan"],
)
def test_first_losses_must_agree_and_nothing_is_thrown_away(
    first, later, disagree, cupy, brief, monkeypatch
):
    monkeypatch.setattr(gpu_train, "AGREED", 0.2)
    monkeypatch.setattr(gpu_train, "torchs", fake(first, later))
    monkeypatch.setattr(gpu_train, "matmul_rate", lambda device: 1e9)
    row = gpu_train.compare(CONFIG, batch=3, rounds=2, device="cpu", contestants=TWO)
    assert row["seconds"] == {"byhand": [1.0, 1.0], "PyTorch": [1.0, 1.0]}
    assert row["tokens_per_second"] == {"byhand": 96, "PyTorch": 96}
    assert row["largest_difference_of_later_losses"]["PyTorch"] > 1
    assert len(row["disagreements"]) == disagree
    if disagree:
        expected = f"the first loss of PyTorch is {first:.4f}, that of byhand 3."
        assert row["disagreements"][0].startswith(expected)


def test_every_step_of_the_measurement_is_saved(cupy, brief, monkeypatch):
    monkeypatch.setattr(gpu_train, "torchs", fake(3.0))
    monkeypatch.setattr(gpu_train, "matmul_rate", lambda device: 1e9)
    saved = []
    contestants = (*TWO, gpu_train.COMPILED)
    row = gpu_train.compare(
        CONFIG, 3, 2, "cpu", contestants, lambda row: saved.append(copy.deepcopy(row))
    )
    assert saved[-1] == row
    rounds = [{who: len(s) for who, s in found["seconds"].items()} for found in saved]
    quick = [{name: n for name in TWO} for n in (1, 2, 2, 3, 4)]
    last = [quick[3] | {gpu_train.COMPILED: 1}, quick[4] | {gpu_train.COMPILED: 2}]
    assert rounds == [{}, {}, {}, {}, *quick[:3], *last]
    assert [len(found["first_losses"]) for found in saved] == [0, 0, 1, 2, 2, 2, 3, 3, 3]


def test_the_ways_to_multiply_are_those_they_are_called(cupy, brief, monkeypatch):
    """The contestants of byhand differ in what multiplies, when their steps are captured too."""
    monkeypatch.setattr(gpu_train, "matmul_rate", lambda device: 1e9)
    monkeypatch.delenv("BYHAND_GEMM_HOPPER", raising=False)
    kernels, chosen, used = backend.cuda(), ["hand"], []

    @contextmanager
    def cuda_gemm(name, module):
        assert module == "cuda_on_cpu"
        chosen.append(name)
        yield
        chosen.pop()

    def watched(kernel):
        def call(*arguments):
            used.append((chosen[-1], os.environ.get("BYHAND_GEMM_HOPPER")))
            kernel(*arguments)

        return call

    monkeypatch.setattr(backend, "cuda_gemm", cuda_gemm)
    for name in kernels.available:
        monkeypatch.setattr(kernels, name, watched(getattr(kernels, name)))
    row = gpu_train.compare(CONFIG, 3, 1, "cpu", tuple(gpu_train.OURS))
    assert row["not_run"] == {}
    ways = [way for way, before in zip(used, [None, *used], strict=False) if way != before]
    made = [("hand", None), ("cublaslt", None), ("hand", "1")]
    assert ways == made  # in the first steps; later ones launch graphs
    assert len({used.count(way) for way in made}) == 1


def test_an_implementation_that_fails_is_named_and_the_others_are_timed(cupy, brief, monkeypatch):
    pytest.importorskip("torch")
    plain = gpu_train.torchs

    def torchs(model, device, compiled):
        if compiled:
            raise RuntimeError("no compiler\nhere")
        return plain(model, device, compiled)

    monkeypatch.setattr(gpu_train, "torchs", torchs)
    contestants = (*TWO, gpu_train.COMPILED)
    row = gpu_train.compare(CONFIG, batch=2, rounds=1, device="cpu", contestants=contestants)
    assert row["not_run"] == {"PyTorch compiled": "RuntimeError: no compiler"}
    assert set(row["tokens_per_second"]) == {"byhand", "PyTorch"}


def test_without_pytorch_byhand_is_timed(cupy, brief, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    row = gpu_train.compare(CONFIG, batch=2, rounds=1, device="cpu", contestants=TWO)
    assert set(row["not_run"]) == {"matmul", "PyTorch"}
    assert set(row["tokens_per_second"]) == {"byhand"}
    assert row["utilisation"] == {}


@pytest.fixture
def program(cupy, brief, monkeypatch):
    """The program on the stand-in, which stays only for the test, beside made-up steps."""
    monkeypatch.setattr("tests.cuda.cupy_double.install", lambda monkeypatch: cupy)
    monkeypatch.setattr(gpu_train, "torchs", fake(3.15))
    monkeypatch.setattr(gpu_train, "matmul_rate", lambda device: 1e9)
    return gpu_train.main


@pytest.mark.parametrize("agreed", [10.0, 1e-9])
def test_the_program_writes_its_file_and_its_status_says_whether_losses_agree(
    agreed, program, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(gpu_train, "AGREED", agreed)
    flags = ["gpt2", "--on-cpu", "--rounds", "1", "--no-compile", "--out", str(tmp_path)]
    assert program(flags) == (0 if agreed == 10.0 else 1)
    found = json.loads((tmp_path / "dry-run-on-the-cpu" / "train_gpt2.json").read_text())
    assert set(found["tokens_per_second"]) >= {"byhand", "byhand Hopper", "PyTorch"}
    assert {"date", "commit", "gpu", "preset"} <= set(found)
    said = capsys.readouterr().out
    assert said.count("DISAGREEMENT: the first loss of PyTorch is 3.1500") == (agreed != 10.0)


def test_the_programs_need_no_platformdirs(program, monkeypatch, tmp_path):
    """A machine that downloads nothing does not need to know where downloads are kept."""
    monkeypatch.setattr(gpu_train, "AGREED", 10.0)
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    (tmp_path / "platformdirs.py").write_text("raise ImportError('not installed')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    assert program(["gpt2", "--on-cpu", "--rounds", "1", "--no-compile"]) == 0
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be, that is the question. " * 60)
    assert train("cpu", text)


def train(device, text):
    size = ("--steps", "4", "--eval-every", "2", "--batch", "2", "--layers", "1", "--width", "16")
    size += ("--heads", "2", "--context", "8", "--eval-batches", "1")
    return gpu_train.to_losses("tiny", text, device, *size)


def test_seconds_to_a_loss(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be, that is the question. " * 60)
    found = train("cpu", text)
    assert [record["step"] for record in found] == [0, 2, 4]
    assert all(record["validation_loss"] > 0 for record in found)
    assert found[0]["seconds"] <= found[-1]["seconds"]
