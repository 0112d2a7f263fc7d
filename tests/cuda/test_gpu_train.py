"""bench/models/gpu_train.py without a GPU: on the stand-in for cupy, beside PyTorch on the CPU."""

from __future__ import annotations

import numpy as np
import pytest

from bench.models import gpu_train
from byhand import GPTConfig
from byhand.cli import bench

CONFIG = GPTConfig(vocabulary_size=24, context_size=8, embedding_dim=16, num_heads=2, num_layers=1)


@pytest.fixture
def brief(monkeypatch):
    """Few steps, and a fixed time instead of the clock."""
    monkeypatch.setattr(gpu_train, "STEPS", 4)

    def once(runs, rounds):
        for run in runs.values():
            run()
        return dict.fromkeys(runs, 2.0)

    monkeypatch.setattr(gpu_train, "in_turns", once)


def test_a_row(cupy, brief):
    pytest.importorskip("torch")
    row = gpu_train.compare(CONFIG, batch=3, rounds=1, device="cpu", compiled=False)
    assert row["not_run"] == {}
    assert row["tokens_per_second"] == {"byhand": 48, "PyTorch": 48}  # 4 x 3 x 8 in 2 s
    peak = 2 * 256**3 / 2.0
    expected = round(48 * bench.flops_per_token(CONFIG) / peak, 4)
    assert row["utilisation"] == {"byhand": expected, "PyTorch": expected}
    losses = row["first_losses"]
    np.testing.assert_allclose(losses["byhand"], losses["PyTorch"], atol=0.02)
    assert losses["byhand"][0] == pytest.approx(np.log(24), abs=0.2)
    assert len(cupy.graphs) == 1


def test_losses_that_differ_are_refused(cupy, brief, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setitem(gpu_train.ADAMW, "lr", 0.3)

    def torchs(model, device, compiled):
        return lambda batches: [0.0] * len(batches)

    monkeypatch.setattr(gpu_train, "torchs", torchs)
    with pytest.raises(gpu_train.Disagreement, match=r"the first losses of byhand are"):
        gpu_train.compare(CONFIG, batch=3, rounds=1, device="cpu", compiled=False)


def test_an_implementation_that_fails_is_named_and_the_others_are_timed(cupy, brief, monkeypatch):
    pytest.importorskip("torch")
    plain = gpu_train.torchs

    def torchs(model, device, compiled):
        if compiled:
            raise RuntimeError("no compiler\nhere")
        return plain(model, device, compiled)

    monkeypatch.setattr(gpu_train, "torchs", torchs)
    row = gpu_train.compare(CONFIG, batch=2, rounds=1, device="cpu", compiled=True)
    assert row["not_run"] == {"PyTorch compiled": "RuntimeError: no compiler"}
    assert set(row["tokens_per_second"]) == {"byhand", "PyTorch"}


def test_seconds_to_a_loss(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be, that is the question. " * 60)
    size = ("--steps", "4", "--eval-every", "2", "--batch", "2", "--layers", "1", "--width", "16")
    size += ("--heads", "2", "--context", "8", "--eval-batches", "1")
    found = gpu_train.to_losses("tiny", text, "cpu", *size)
    assert [record["step"] for record in found] == [0, 2, 4]
    assert all(record["validation_loss"] > 0 for record in found)
    assert found[0]["seconds"] <= found[-1]["seconds"]
