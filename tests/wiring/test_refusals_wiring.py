"""Refusals that no other test reaches: each bad input gives the sentence that names it."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from byhand import backend, ops, optim, roofline
from byhand.backend.native import MissingKernelError
from byhand.cli import turns
from byhand.cli.main import main
from byhand.data import EpochSampler, corpus, download
from byhand.errors import UserError
from byhand.models.gpt import GPT, GPTConfig
from byhand.models.mlp import MLP, MLPConfig
from byhand.nn import PilingUp
from byhand.nn.module import Module
from byhand.runs import checkpoint, load
from byhand.tasks import Classification, LanguageModel
from byhand.training import Diverged, evaluate
from tests.training import small

F32 = np.float32


def gpt() -> GPT:
    return GPT(GPTConfig(14, 6, 8, 2, 1))


def attention_out(which: int) -> None:
    """attention.backward with one of its outputs of another shape."""
    q, k = np.zeros((2, 3, 4, 8), F32), np.zeros((2, 5, 2, 8), F32)
    o, saved = ops.attention.forward(q, k, k.copy())
    out = [np.empty_like(q), np.empty_like(k), np.empty_like(k)]
    out[which] = np.empty((2, 3, 4, 9), F32)
    ops.attention.backward(o, saved, out=tuple(out))


def unknown_parameters() -> None:
    model = gpt()
    model.load_state_dict({**model.state_dict(), "decoder.extra.weight": np.zeros(3, F32)})


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: backend.set_num_threads("2"), TypeError, "must be an int, got str"),
        (lambda: backend.kernels([1.0]), TypeError, "expected a numpy or cupy array, got list"),
        (lambda: backend.cpu().no_such, MissingKernelError, "no_such has no cpu_"),
        (lambda: EpochSampler(3, 4, drop_last=True), UserError, "3 items are too few .* of 4"),
        (lambda: GPT(17), TypeError, "GPT takes a GPTConfig, got 17"),
        (lambda: attention_out(0), ValueError, r"out\[0\] must have shape"),
        (lambda: attention_out(1), ValueError, r"out\[1\] must have shape"),
        (lambda: attention_out(2), ValueError, r"out\[2\] must have shape"),
        (lambda: optim.clip_grad_norm(gpt(), 0.0), ValueError, "max_norm must be positive, got 0"),
        (lambda: optim.AdamW(gpt()).step(clip_norm=0.0), ValueError, "must be positive, got 0"),
        (unknown_parameters, ValueError, "unknown parameters: decoder.extra.weight"),
        (lambda: evaluate(LanguageModel(gpt()), []), ValueError, "there are no batches"),
        (
            lambda: Classification(MLP(MLPConfig(5, 3))).check(
                {"x": np.zeros((4, 5), F32), "labels": np.zeros(3, np.int64)}
            ),
            ValueError,
            r"labels must have shape \(4,\)",
        ),
    ],
)
def test_a_mistake_is_named(call: Callable[[], Any], kind: type[Exception], words: str):
    with pytest.raises(kind, match=words):
        call()


def test_a_bound_itself_is_accepted():
    assert len(next(EpochSampler(4, 4, drop_last=True))) == 4
    optim.clip_grad_norm(gpt(), 1e-30)


def test_forward_passes_without_backward_passes_are_reported_once(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(Module, "_has_warned", False)
    model = gpt()
    model.decoder.waiting_limit = 3
    linear = model.decoder.norm
    linear.waiting_limit = 3
    x = np.zeros((2, 8), F32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for count in (0, 0, 1, 1, 1):
            linear(x)
            assert len(caught) == count
        other = gpt().decoder.norm
        other.waiting_limit = 1
        other(x)
    assert [w.category for w in caught] == [PilingUp]
    assert "3 forward passes of LayerNorm are kept in memory" in str(caught[0].message)


# --- Runs and checkpoints ----------------------------------------------------------------------


def resealed(path: Path, state: str) -> None:
    """A checkpoint with another state, whose digest is right."""
    import safetensors.numpy

    tensors = checkpoint.read(path).tensors
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = dict(file.metadata())
    metadata["state"] = state
    metadata["sha256"] = checkpoint._digest(tensors, state)
    path.write_bytes(safetensors.numpy.save(tensors, metadata))


@pytest.mark.parametrize("state", ["{", "[1]", "[" * 100_000])
def test_a_checkpoint_whose_state_is_not_json_is_refused(state: str, tmp_path: Path):
    small.new_trainer(tmp_path, small.config(steps=1, warmup=0)).run()
    path = tmp_path / "best.safetensors"
    assert checkpoint.read(path).state["step"] >= 0
    resealed(path, state)
    with pytest.raises(UserError, match=r"best.safetensors is damaged: its state is not JSON"):
        checkpoint.read(path)


def test_damaged_weights_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "text.txt").write_text(small.text())
    trainer = small.new_trainer(tmp_path / "run", small.config(tmp_path / "text.txt"))
    trainer.model.decoder.norm.weight.value[...] = 3e38
    trainer.save("best", "last")
    assert main(["eval", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("byhand: the loss is ")
    assert f": the weights in {tmp_path / 'run' / 'best.safetensors'} are so large that" in error
    trainer.model.decoder.norm.weight.value[0] = math.nan
    with pytest.raises(Diverged, match=r"the validation loss is nan, because decoder.norm.weight"):
        trainer.evaluate()
    assert trainer.model.training
    trainer.save("best", "last")
    with pytest.raises(
        ValueError,
        match=r"best.safetensors cannot be used: decoder.norm.weight has numbers that are NaN or "
        "infinite; train again, with a lower learning rate$",
    ):
        load(tmp_path / "run")


def test_a_checkpoint_without_an_entry_is_refused_and_names_it(tmp_path: Path):
    trainer = small.new_trainer(tmp_path)
    state = json.loads(json.dumps(trainer.state()))
    for name in ("step", "sampler", "best_step", "seconds"):
        rest = {key: value for key, value in state.items() if key != name}
        with pytest.raises(UserError, match=f"last.* is incomplete.*{name}"):
            trainer.restore(checkpoint.Checkpoint(trainer.tensors(), rest), "last")


# --- Files and machines ------------------------------------------------------------------------


def test_a_download_that_cannot_be_kept_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*paths: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("byhand.data.download.os.replace", full)
    with pytest.raises(OSError, match="No space"):
        download._write(tmp_path / "text.txt", b"text")
    assert list(tmp_path.iterdir()) == []


def test_a_corpus_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "text.txt").write_text("text")

    def failing(*args: Any, **options: Any) -> Any:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", failing)
    monkeypatch.setattr(Path, "open", failing)
    monkeypatch.setattr("builtins.open", failing)
    with pytest.raises(UserError, match=r"cannot read the corpus .*text.txt: Input/output error"):
        corpus.open_corpus(str(tmp_path / "text.txt"))


@pytest.mark.parametrize("command", ["train", "generate", "eval"])
def test_a_device_that_cannot_be_used_is_named_with_the_reason(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(backend, "cuda_reason", lambda: "there is no driver")
    words = [] if command == "train" else ["runs/none"]
    assert main([command, *words, "--device", "cuda"]) == 2
    assert "--device cuda cannot be used: there is no driver" in capsys.readouterr().err


@pytest.mark.parametrize(("cache", "size"), [(1, 64 << 20), (50 << 20, 200 << 20)])
def test_the_arrays_of_the_roofline_are_four_times_the_cache(
    cache: int, size: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(backend, "last_level_cache", lambda: cache)
    assert roofline.outside_caches() == size
    monkeypatch.setattr(roofline, "_LARGEST", 100)
    assert roofline.outside_caches() == 100


def test_contestants_rest_before_each_round(monkeypatch: pytest.MonkeyPatch):
    pauses: list[float] = []
    monkeypatch.setattr("byhand.cli.turns.time.sleep", pauses.append)
    turns.take_turns({"one": lambda: 1}, 2, warm_up=1, rest=0.25)
    assert pauses == [0.25] * 3
    turns.take_turns({"one": lambda: 1}, 2, warm_up=1)
    assert pauses == [0.25] * 3


def test_the_arrays_of_a_run_are_described_by_names_types_and_shapes():
    """Equal bytes with another name, type or shape are other data."""
    from byhand.runs.config import Table

    rows = np.arange(12, dtype=np.int64).reshape(4, 3)
    same = {Table.of("t", x=rows).sha256, Table.of("u", x=rows.copy()).sha256}
    assert len(same) == 1
    others = [
        Table.of("t", y=rows),
        Table.of("t", x=rows.view(np.uint64)),
        Table.of("t", x=rows.reshape(4, 3, 1)),
        Table.of("t", x=rows + 1),
        Table.of("t", x=rows, y=rows),
    ]
    assert len({*same, *(other.sha256 for other in others)}) == 6
    assert Table.of("t", x=np.asfortranarray(rows)).sha256 in same
    assert hashlib.sha256(b"").hexdigest() not in same
