"""A run that was stopped and continued in another process equals one that was not stopped."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors

from byhand import files
from byhand.runs import Run, load_trained, log
from byhand.runs.checkpoint import read
from byhand.runs.log import Log
from tests.runs.test_files import WatchedOs, in_child
from tests.training import small


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text(small.text())
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 20 steps without a stop."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    small.new_trainer(folder).run()
    return folder


@pytest.mark.parametrize("stop", [1, 37, 50])
def test_a_run_continued_in_a_new_process_equals_an_uninterrupted_one(
    tmp_path: Path, corpus: Path, stop: int
):
    """Steps 37 (between two evaluations) and 50 (at one), with dropout and accumulation."""
    config = small.config(corpus, steps=100, eval_every=25, accumulate=2, dropout=0.2)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    small.new_trainer(whole, config).run()

    trainer = small.new_trainer(parts, config)
    small.stop_after(trainer, stop)
    assert trainer.run() is signal.SIGINT
    assert trainer.step == stop
    assert read(parts / "last.safetensors").state["step"] == stop
    assert not small.same_runs(whole, parts)

    status, out, err = small.finish(small.command("train", "--resume", "--out", parts))
    assert (status, err) == (0, "")
    assert f"continuing from step {stop}" in out
    assert small.same_runs(whole, parts)


def test_resuming_from_the_best_checkpoint_gives_the_same_run(tmp_path: Path, whole: Path):
    run = tmp_path / "run"
    trainer = small.new_trainer(run)
    small.stop_after(trainer, 18)
    trainer.run()
    (run / "last.safetensors").unlink()
    resumed = small.resumed_trainer(run, "best")
    assert resumed.step in (5, 10, 15)
    resumed.run()
    assert small.same_runs(whole, run)


def test_a_resumed_run_keeps_its_best_loss(tmp_path: Path):
    trainer = small.new_trainer(tmp_path)
    small.stop_after(trainer, 7)
    trainer.run()
    resumed = small.resumed_trainer(tmp_path)
    assert (resumed.best_loss, resumed.best_step) == (trainer.best_loss, trainer.best_step)
    best = (tmp_path / "best.safetensors").read_bytes()
    resumed.best_loss = 0.0  # lower than any loss of the rest
    resumed.log = Log(tmp_path / "log.jsonl")
    resumed.save("last")
    resumed.log.close()
    resumed = small.resumed_trainer(tmp_path)
    resumed.run()
    assert (tmp_path / "best.safetensors").read_bytes() == best
    assert load_trained(tmp_path, "last").step == 20


def test_a_run_may_be_lengthened(tmp_path: Path):
    small.new_trainer(tmp_path, small.config(steps=10)).run()
    before = small.logged(tmp_path)
    trainer = small.resumed_trainer(tmp_path, steps=15)
    assert trainer.run() is None
    assert trainer.step == 15
    after = small.logged(tmp_path)
    assert after[: len(before)] == before
    assert after[-1]["step"] == 15


def test_a_run_in_format_1_continues_in_the_present_format(tmp_path: Path):
    """The run that byhand 0.1 made in tests/runs/data, which ended at step 4."""
    run = tmp_path / "run"
    shutil.copytree(Path(__file__).parents[1] / "runs" / "data" / "format1", run)
    trainer = small.resumed_trainer(run, steps=10)
    assert (trainer.step, trainer.optimizer.step_count) == (4, 4)
    assert trainer.model.generator.count == 16
    saved = read(run / "last.safetensors")
    moments = trainer.optimizer.state_dict()
    for slot in ("m", "v"):
        for name, moment in saved.group(f"optimizer.{slot}").items():
            assert moments[slot][name].tobytes() == moment.tobytes()
    before = trainer.best_loss
    assert trainer.run() is None
    assert trainer.step == 10
    assert trainer.best_loss < before
    assert load_trained(run, "last").step == 10
    with safetensors.safe_open(run / "last.safetensors", "numpy") as file:
        assert file.metadata()["version"] == "2"


def moments_of_a_run(folder: Path, act: Callable[[str, str], None]) -> None:
    """A whole run in which `act` sees each system call that saving makes."""
    files.os = log.os = WatchedOs(act)  # type: ignore[attr-defined]
    run = small.resumed_trainer if (folder / "last.safetensors").exists() else small.new_trainer
    run(folder).run()


@pytest.mark.deep
def test_killed_at_every_moment_of_every_save(tmp_path: Path):
    """kill -9 at each system call of the saves at steps 2 and 4, and of the log before them."""
    config = small.config(steps=4, eval_every=2, lr=0.05, dropout=0.0)
    whole, first = tmp_path / "whole", tmp_path / "first"
    small.new_trainer(whole, config).run()
    assert read(whole / "best.safetensors").state["step"] == 4, "otherwise there is one save fewer"
    trainer = small.new_trainer(first, config)
    small.stop_after(trainer, 1)
    trainer.run()
    begun = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}

    killed = 0
    for moment in range(1000):
        folder = tmp_path / f"run{moment}"
        for path, data in begun.items():
            copy = folder / path.relative_to(first)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(data)
        left = [moment]

        def act(when: str, name: str, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        status = in_child(lambda folder=folder, act=act: moments_of_a_run(folder, act))
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        killed += 1
        assert load_trained(folder, "last").step in (1, 2, 4)
        for path in folder.glob("*.safetensors"):
            read(path)
        if moment % 3 == 0:
            files.remove_leftovers(*Run(folder).files())
            small.resumed_trainer(folder).run()
            assert small.same_runs(whole, folder)
    assert killed > 60, "too few system calls were seen to be all of them"


@pytest.mark.deep
def test_a_run_killed_many_times_still_finishes(tmp_path: Path, corpus: Path):
    """`byhand train` killed at random moments and resumed until it is finished: the same run."""
    settings = ["--steps", "200", "--eval-every", "1", "--eval-batches", "1", "--dropout", "0.1"]
    settings += ["--sample-tokens", "1", *small.SIZES]
    whole, run = tmp_path / "whole", tmp_path / "run"
    status, _, err = small.finish(small.command("train", corpus, *settings, "--out", whole))
    assert (status, err) == (0, "")

    rng = random.Random(1)
    process = small.command("train", corpus, *settings, "--out", run)
    kills = 0
    while True:
        # Wait for its first save, then for a random moment.
        deadline = time.monotonic() + 60
        begun = newest(run)
        while process.poll() is None and newest(run) == begun and time.monotonic() < deadline:
            time.sleep(0.001)
        try:
            process.wait(rng.random() * 0.3)
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        kills += 1
        assert load_trained(run, "last").step >= 0
        process = small.command("train", corpus, *settings, "--out", run, "--resume")
        if kills == 6:
            small.finish(process)
            break
    assert kills > 0
    assert small.same_runs(whole, run)
    assert not list(run.glob(".*.tmp"))


def newest(run: Path) -> float:
    path = run / "last.safetensors"
    return path.stat().st_mtime_ns if path.exists() else 0
