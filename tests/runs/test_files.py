"""Atomic writes: the old or the new file, whatever happens to the process or the disk."""

import errno
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from byhand import files
from byhand.files import remove_leftovers, write_atomically
from byhand.runs.checkpoint import pack, read
from byhand.runs.hints import not_saved

CALLS = ("open", "write", "fsync", "close", "replace")


class WatchedOs:
    """A replacement for `os` that reports every system call that saving makes.

    `act(when, name)` is called before and after each; for a write also after half of it.
    """

    def __init__(self, act: Callable[[str, str], None]) -> None:
        self.act = act

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CALLS:
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            self.act("before", name)
            if name == "write":
                handle, data = args
                half = os.write(handle, data[: len(data) // 2])
                self.act("amid", name)
                return half + os.write(handle, data[half:])
            result = real(*args, **kwargs)
            self.act("after", name)
            return result

        return call


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a fork of this process; its wait status."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


def content(n: int) -> bytes:
    """A checkpoint in which every number is n, so that a mixture of two is noticed."""
    return pack({"model.w": np.full(1000 + 400 * n, n, np.float32)}, {"step": n})


def number_in(path: Path) -> int:
    found = read(path)
    step = found.state["step"]
    assert (found.tensors["model.w"] == step).all()
    return step


def test_moments_of_saving_are_as_many_as_expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The tests below need this list to be complete: every system call must be seen."""
    seen: list[str] = []
    monkeypatch.setattr(files, "os", WatchedOs(lambda when, name: seen.append(f"{when} {name}")))
    write_atomically(tmp_path / "c", content(1))
    names = [moment.split()[1] for moment in seen if moment.startswith("before")]
    assert names == ["open", "write", "fsync", "close", "replace", "open", "fsync", "close"]
    assert len(seen) == 16
    assert number_in(tmp_path / "c") == 1


@pytest.mark.parametrize("moment", range(16))
def test_killed_at_every_system_call(tmp_path: Path, moment: int):
    path = tmp_path / "c"
    write_atomically(path, content(1))
    seen: list[str] = []

    def act(when: str, name: str) -> None:
        if len(seen) == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        seen.append(name)

    def save() -> None:
        files.os = WatchedOs(act)  # type: ignore[attr-defined]
        write_atomically(path, content(2))

    assert os.WTERMSIG(in_child(save)) == signal.SIGKILL
    # The new file is there from the rename on: moment 9 is just after it.
    assert number_in(path) == (2 if moment >= 9 else 1)
    remove_leftovers(path)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


@pytest.mark.deep
def test_killed_at_sixty_random_moments(tmp_path: Path):
    path = tmp_path / "c"
    write_atomically(path, content(0))
    versions = [content(n) for n in range(50)]
    rng = random.Random(0)
    killed_in_mid_save = 0
    for _ in range(60):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            n = number_in(path)
            while True:
                n = (n + 1) % len(versions)
                write_atomically(path, versions[n])
                os.write(writing, bytes([n]))
        os.close(writing)
        first = os.read(reading, 1)  # it has begun to write
        time.sleep(rng.random() * 0.01)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        reported = first + os.read(reading, 65536)
        os.close(reading)
        # The last version reported as saved is there, or the one that was being saved.
        assert number_in(path) in (reported[-1], (reported[-1] + 1) % len(versions))
        killed_in_mid_save += len(list(tmp_path.iterdir())) > 1
        remove_leftovers(path)
        assert [p.name for p in tmp_path.iterdir()] == ["c"]
    assert killed_in_mid_save > 0, "no kill hit a save: the test shows nothing"


@pytest.mark.parametrize("call", ["open", "write", "fsync", "close", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_an_error_of_the_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
):
    path = tmp_path / "c"
    write_atomically(path, content(1))

    def act(when: str, name: str) -> None:
        if name == call and when == ("amid" if call == "write" else "before"):
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files, "os", WatchedOs(act))
    with pytest.raises(OSError, match=os.strerror(code)) as error:
        write_atomically(path, content(2))
    assert error.value.filename == str(path)
    assert number_in(path) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


REFUSALS = [
    *((name, "fsync") for name in ("EINVAL", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EBADF")),
    ("EACCES", "open"),  # Windows opens no folders
]


@pytest.mark.parametrize(("name", "call"), REFUSALS)
@pytest.mark.parametrize("which", ["folder", "both"])
def test_a_file_system_that_cannot_sync_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, call: str, which: str
):
    code = getattr(errno, name)
    calls: list[str] = []

    def act(when: str, seen: str) -> None:
        if (when, seen) == ("before", call):
            calls.append(seen)
            if len(calls) == 2 or (which == "both" and call == "fsync"):
                raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files, "os", WatchedOs(act))
    write_atomically(tmp_path / "c", content(1))
    assert len(calls) == 2
    assert number_in(tmp_path / "c") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_a_folder_that_a_broken_disk_cannot_sync_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    synced: list[str] = []

    def act(when: str, name: str) -> None:
        if (when, name) == ("before", "fsync"):
            synced.append(name)
            if len(synced) == 2:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(files, "os", WatchedOs(act))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write_atomically(tmp_path / "c", content(1))


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EFBIG", "EIO", "EROFS"])
def test_a_file_that_cannot_be_saved_is_one_sentence(tmp_path: Path, name: str):
    run = tmp_path / "my run"
    run.mkdir()
    code = getattr(errno, name)
    error = OSError(code, os.strerror(code))
    first = "mend that" if name in ("EIO", "EROFS") else "free space"
    start = f"cannot save {run}/x ({os.strerror(code)}); "
    fresh = f"{start}there is no checkpoint yet: {first}, then start again"
    assert str(not_saved(run / "x", error, run)) == fresh
    (run / "best.safetensors").touch()
    assert str(not_saved(run / "x", error, run)) == (
        f"{start}the checkpoints saved before are unchanged: {first}, then byhand train --resume "
        f"--out '{run}'"
    )


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def write(handle: int, data: memoryview) -> int:
        return os.write(handle, data[:7])

    short = SimpleNamespace(**{**vars(os), "write": write})
    monkeypatch.setattr(files, "os", short)
    write_atomically(tmp_path / "c", content(1))
    assert number_in(tmp_path / "c") == 1


def test_an_interruption_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "c"
    write_atomically(path, content(1))

    def act(when: str, name: str) -> None:
        if when == "amid":
            raise KeyboardInterrupt

    monkeypatch.setattr(files, "os", WatchedOs(act))
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, content(2))
    assert number_in(path) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_permissions_follow_the_umask(tmp_path: Path):
    former = os.umask(0o027)
    try:
        write_atomically(tmp_path / "c", b"x")
    finally:
        os.umask(former)
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o640
