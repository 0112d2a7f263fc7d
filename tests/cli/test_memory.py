"""What cannot fit into memory is refused before it starts, and nothing that fits is."""

from __future__ import annotations

import math

import numpy as np
import pytest

from byhand import GPT, GPTConfig, MLPConfig, _host
from byhand.cli import memory
from byhand.cli.main import main
from byhand.cli.memory import memory_of, require_memory
from byhand.errors import UserError
from tests.training import small


def saved_by_a_loss(model: GPT, batch: int) -> tuple[int, int]:
    """Bytes that a forward pass keeps for the backward pass, and the peak of a whole step."""
    context = model.config.context_size
    ids, targets = np.random.default_rng(0).integers(0, 7, (2, batch, context))
    for _ in range(2):  # the second time nothing is made for the first time
        model.zero_grad()
        before = _host.pool_stats()["in_use"]
        _host.pool_reset_peak()
        loss = model.loss(ids, targets)
        kept = _host.pool_stats()["in_use"] - before
        model.backward()
        del loss
    return kept, _host.pool_stats()["peak"] - before


@pytest.mark.parametrize(("width", "layers", "context"), [(128, 1, 64), (128, 3, 96), (192, 2, 64)])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_the_estimate_is_what_is_kept_and_no_more(width, layers, context, dropout):
    config = GPTConfig(7, context, width, 4, layers, dropout)
    for batch in (4, 8):
        estimate = 4 * config.saved_activations(batch * context)
        kept, peak = saved_by_a_loss(GPT(config), batch)
        assert 0.9 * kept <= estimate <= 1.001 * kept <= peak


@pytest.mark.parametrize("layers", [1, 6])
def test_the_estimate_with_recomputing_is_below_the_peak(layers):
    config = GPTConfig(7, 64, 128, 4, layers)
    estimate = 4 * config.saved_activations(8 * 64, recompute=True)
    kept, peak = saved_by_a_loss(GPT(config, recompute=True), 8)
    assert kept < estimate < peak < 2.5 * estimate


def test_what_is_too_large_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch):
    config = GPTConfig(1000, 100, 256, 4, 2)
    weights = 16 * (12 * 2 * 256**2 + 1100 * 256)
    activations = 4 * config.saved_activations(5000)
    monkeypatch.setattr(memory, "memory_of", lambda device: weights + activations)
    require_memory(config, 5000)
    with pytest.raises(
        UserError,
        match=r"^a forward pass over 5,001 tokens at once needs at least 0.1 GB .* 0.1 GB: less!$",
    ):
        require_memory(config, 5001, advice=": less!")
    with pytest.raises(UserError, match="for its activations"):
        require_memory(config, 5000, copies=2)
    require_memory(config, 9000, half=True)
    require_memory(config, 7000, recompute=True)
    monkeypatch.setattr(memory, "memory_of", lambda device: weights - 1)
    with pytest.raises(UserError, match=r"^a model of 0.0 billion parameters .* the GPU has"):
        require_memory(config, 1, device="cuda")


def test_a_model_without_an_estimate_is_not_refused():
    require_memory(MLPConfig(10, 10), 10**15)


def test_the_memory_of_a_container_counts(tmp_path, monkeypatch: pytest.MonkeyPatch):
    everything = memory_of("cpu")
    assert 1e8 < everything < math.inf
    limit = tmp_path / "memory.max"
    plain = open
    monkeypatch.setattr(
        memory,
        "open",
        lambda path, **o: plain(limit if "memory.max" in path else path, **o),
        raising=False,
    )
    limit.write_text("123456789\n")
    assert memory_of("cpu") == 123456789
    limit.write_text("max\n")
    assert memory_of("cpu") >= everything


def test_a_system_that_does_not_say_its_memory_refuses_nothing(monkeypatch: pytest.MonkeyPatch):
    class Windows:
        pass

    def no_file(*args: object, **options: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(memory, "os", Windows)
    monkeypatch.setattr(memory, "open", no_file, raising=False)
    assert memory_of("cpu") == math.inf


def test_a_batch_is_refused_before_the_folder_is_made(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(small.text())
    command = ["train", "text.txt", "--preset", "gpt2", "--batch", "100000", "--context", "128"]
    assert main(command) == 2
    err = capsys.readouterr().err
    assert err.startswith(
        "byhand: a forward pass over 12,800,000 tokens at once needs at least 4,7"
    )
    assert ": lower --batch (with a larger --accumulate" in err
    assert err.endswith("or add --recompute\n")
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]
    assert main([*command, "--recompute"]) == 2
    assert "recompute" not in capsys.readouterr().err
