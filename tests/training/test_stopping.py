"""Ctrl-C and SIGTERM: the step ends, the run is saved, the command that continues is printed."""

import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest

from byhand.runs.checkpoint import read
from tests.training import small

LONG = ["--steps", "1000000", "--eval-every", "500000", "--eval-batches", "1"]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(small.text())
    return path


def start_training(corpus: Path, run: Path) -> subprocess.Popen[str]:
    """A run that would take hours, once its first checkpoint is there."""
    process = small.command("train", corpus, *LONG, *small.SIZES, "--out", run)
    deadline = time.monotonic() + 60
    while not (run / "last.safetensors").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_prints_the_command_that_continues(
    tmp_path: Path, corpus: Path, number: signal.Signals, status: int
):
    run = tmp_path / "run"
    process = start_training(corpus, run)
    time.sleep(0.2)
    process.send_signal(number)
    found, out, err = small.finish(process)
    assert (found, err) == (status, "")
    step = read(run / "last.safetensors").state["step"]
    assert step > 0
    last = out.strip().splitlines()[-1]
    assert last == (
        f"stopped and saved at step {step} of 1000000; continue with: "
        f"byhand train --resume --out {run}"
    )
    assert small.logged(run)[-1]["step"] == step

    process = small.command("train", "--resume", "--out", run)
    while "continuing" not in (line := process.stdout.readline()):  # type: ignore[union-attr]
        assert line, "it ended without continuing"
    size = (run / "log.jsonl").stat().st_size
    while (run / "log.jsonl").stat().st_size == size and process.poll() is None:
        time.sleep(0.01)  # until it trains: before that there is nothing to save
    process.send_signal(number)
    assert small.finish(process)[0] == status


def test_a_second_ctrl_c_leaves_the_last_checkpoint(tmp_path: Path, corpus: Path):
    trainer = small.new_trainer(tmp_path / "run")
    plain = trainer.train_step

    def train_step() -> None:
        plain()
        if trainer.step == 7:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    trainer.train_step = train_step  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert read(tmp_path / "run" / "last.safetensors").state["step"] == 5


@pytest.mark.parametrize("during", ["loss", "sample"])
def test_an_evaluation_stopped_by_a_signal_is_repeated_later(tmp_path: Path, during: str):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    small.new_trainer(whole).run()
    trainer = small.new_trainer(parts)
    model = trainer.model
    owner, name = (model, "loss") if during == "loss" else (model.decoder, "forward")
    plain = getattr(owner, name)

    def interrupted(*args: object, **kwargs: object):
        if trainer.step == 10 and not model.training and (during == "loss" or kwargs):
            signal.raise_signal(signal.SIGTERM)
        return plain(*args, **kwargs)  # type: ignore[arg-type]

    setattr(owner, name, interrupted)
    assert trainer.run() is signal.SIGTERM
    assert trainer.step == 10
    assert trainer.evaluated == 5
    assert not trainer.run_folder.sample_path(10).exists()
    resumed = small.resumed_trainer(parts)
    assert resumed.evaluation_is_due()
    resumed.run()
    assert small.same_runs(whole, parts)


def test_a_disk_that_fills_up_in_a_real_run(tmp_path: Path, corpus: Path):
    """The kernel refuses to let any file grow past a limit, as a full disk or a quota would."""
    run = tmp_path / "run"
    trainer = small.new_trainer(run, small.config(corpus))
    small.stop_after(trainer, 12)
    trainer.run()
    before = {path.name: path.read_bytes() for path in run.glob("*.safetensors")}
    size = len(before["last.safetensors"])
    assert (run / "log.jsonl").stat().st_size < size // 2
    process = small.command(
        "train",
        "--resume",
        "--out",
        run,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size - 100, size - 100)),
    )
    status, _, err = small.finish(process)
    assert status == 2
    assert err.startswith(f"byhand: cannot save {run}/")
    assert err.endswith(
        "(File too large); the checkpoints saved before are unchanged: free space, then "
        f"byhand train --resume --out {run}\n"
    )
    assert err.count("\n") == 1
    assert {path.name: path.read_bytes() for path in run.glob("*.safetensors")} == before
    assert not list(run.glob(".*.tmp"))
