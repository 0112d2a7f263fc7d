"""The start of a run that fails or is killed: the same command starts it again."""

import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from byhand import files
from byhand.cli.main import main
from byhand.errors import UserError
from byhand.runs import Run
from byhand.runs.checkpoint import read
from byhand.runs.log import read_log
from tests.runs import made
from tests.runs.test_files import WatchedOs, in_child
from tests.training import small

SETTINGS = [*small.SIZES, "--steps", "3", "--eval-every", "2", "--sample-tokens", "5"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a text and, in `whole`, a run without a failure."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(small.text())
    assert start("whole") == 0
    return tmp_path


def start(out: str, *flags: str) -> int:
    return main(["train", "text.txt", "--out", out, *SETTINGS, *flags])


def on_call(number: int, do: Callable[[], None]) -> Callable[[str, str], None]:
    """An `act` for WatchedOs that does something before system call `number`."""
    seen: list[str] = []

    def act(when: str, name: str) -> None:
        if when == "before":
            seen.append(name)
            if len(seen) == number + 1:
                do()

    return act


def calls_to_first_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many system calls saving makes until `best` has its name."""
    found = [0, 0]

    def act(when: str, name: str) -> None:
        found[0] += when == "before"
        if not found[1] and (folder / "run" / "best.safetensors").exists():
            found[1] = found[0]

    with monkeypatch.context() as patch:
        patch.setattr(files, "os", WatchedOs(act))
        assert start("run") == 0
    shutil.rmtree(folder / "run")
    return found[1]


def test_a_start_that_fails_at_any_call_is_repeated(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    last = calls_to_first_checkpoint(folder, monkeypatch)
    assert last > 12, "tokenizer.json, config.json and a checkpoint are written"

    def fail() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for number in range(0, last - 1, 2):
        with monkeypatch.context() as patch:
            patch.setattr(files, "os", WatchedOs(on_call(number, fail)))
            assert start("run") == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "free space, then start again" in error
        assert main(["train", "--resume", "--out", "run"]) == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert start("run") == 0
        assert small.same_runs(folder / "whole", folder / "run")
        shutil.rmtree(folder / "run")


def test_a_start_that_is_killed_at_any_call_is_repeated(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    last = calls_to_first_checkpoint(folder, monkeypatch)

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def run(number: int) -> None:
        files.os = WatchedOs(on_call(number, kill))  # type: ignore[attr-defined]
        start("run")

    for number in range(1, last - 1, 3):
        assert os.WTERMSIG(in_child(lambda number=number: run(number))) == signal.SIGKILL
        assert start("run", "--lr", "0.01") == 0, "with other settings, too"
        assert Run("run").read_config().training.lr == 0.01
        steps = [record["step"] for record in read_log(folder / "run" / "log.jsonl")]
        assert steps == [0, 1, 2, 2, 3, 3]
        assert not list((folder / "run").glob(".*.tmp"))
        shutil.rmtree(folder / "run")


def test_a_folder_with_a_checkpoint_is_never_started_again(tmp_path: Path):
    run = made.run(tmp_path)
    for which in ("best", "last"):
        (tmp_path / ".without-checkpoint").touch()  # as after a kill just after the first save
        with pytest.raises(UserError, match="already holds a run"):
            run.require_new()
        kept = run.checkpoint_path(which).read_bytes()
        run.checkpoint_path(which).unlink()
        with pytest.raises(UserError, match="already holds a run"):
            run.require_new()
        run.checkpoint_path(which).write_bytes(kept)
    run.save_checkpoint("last", made.checkpoint(made.config(), 4))
    assert not (tmp_path / ".without-checkpoint").exists()


def test_files_that_no_failed_start_left_are_kept(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"mine": 1}')
    with pytest.raises(UserError, match="already holds a run"):
        Run(tmp_path).require_new()
    (tmp_path / "config.json").unlink()
    (tmp_path / "samples").mkdir()
    run = Run(tmp_path / "run")
    run.create(made.config(), made.TOKENIZER)
    (run.folder / "notes.txt").write_text("mine")
    (run.folder / "samples" / "notes.txt").write_text("mine")
    run.save_sample(0, "a sample")
    run.log_path.write_text('{"step": 0}\n')
    Run(run.folder).require_new()
    Run(run.folder).create(made.config(), made.TOKENIZER)
    assert not run.log_path.exists()
    assert [path.name for path in (run.folder / "samples").iterdir()] == ["notes.txt"]
    assert (run.folder / "notes.txt").exists()


@pytest.mark.parametrize("name", ["EINVAL", "ENOTSUP"])
def test_a_file_system_that_syncs_nothing_can_be_trained_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    def act(when: str, call: str) -> None:
        if (when, call) == ("before", "fsync"):
            raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

    monkeypatch.setattr(files, "os", WatchedOs(act))
    assert start("run") == 0
    assert small.same_runs(folder / "whole", folder / "run")
    assert read(folder / "run" / "last.safetensors").state["step"] == 3
