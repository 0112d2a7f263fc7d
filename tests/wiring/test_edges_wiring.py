"""What results seldom show: alignment, folders, permissions, old formats."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from byhand import files, roofline
from byhand.cli import start
from byhand.cli.main import main
from byhand.data import download
from byhand.errors import UserError
from byhand.runs import checkpoint
from tests.training import small


def test_the_arrays_of_the_roofline_begin_at_cache_lines_and_do_not_overlap():
    arrays = roofline._arrays(5, 4096)
    starts = sorted(a.ctypes.data for a in arrays)
    assert all(start % 64 == 0 for start in starts)
    assert all(a.nbytes == 4096 and a.dtype == np.float32 for a in arrays)
    assert min(np.diff(starts)) >= 4096
    for a in arrays:
        a[-1] = 2.0  # the last element is the array's own
        assert (a[:-1] == 1).all()


def test_a_download_makes_the_folders_above_it(tmp_path: Path):
    path = tmp_path / "a" / "b" / "text.txt"
    download._write(path, b"text")
    download._write(path, b"other")
    assert path.read_bytes() == b"other"
    assert os.listdir(path.parent) == ["text.txt"]


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such permissions")
def test_files_have_the_permissions_that_the_user_wants(tmp_path: Path):
    former = os.umask(0o026)
    try:
        files.write_atomically(tmp_path / "log", b"text")
    finally:
        os.umask(former)
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o640


def test_an_incomplete_checkpoint_of_the_first_format_is_refused(tmp_path: Path):
    import safetensors.numpy

    small.new_trainer(tmp_path, small.config(steps=1, warmup=0)).run()
    path = tmp_path / "last.safetensors"
    tensors = checkpoint.read(path).tensors
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = dict(file.metadata())
    state = '{"step": 1}'
    metadata |= {"version": "1", "state": state, "sha256": checkpoint._digest(tensors, state)}
    path.write_bytes(safetensors.numpy.save(tensors, metadata))
    with pytest.raises(UserError, match=r"last.safetensors is incomplete or has something unknown"):
        checkpoint.read(path)


class OutOfMemory(MemoryError):
    """As cupy's."""


OutOfMemory.__module__ = "cupy.cuda.memory"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError("Unable to allocate 9 TiB"), "there is not enough memory for this: Unable"),
        (OutOfMemory("Out of memory."), "the GPU has not enough memory for this (Out of memory): "),
    ],
)
def test_a_full_memory_is_said_to_be_the_gpus_or_the_machines(
    error: MemoryError,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def full(*args: object) -> int:
        raise error

    monkeypatch.setattr(start, "_start", full)
    assert main(["train"]) == 2
    assert words in capsys.readouterr().err


def test_the_roofline_is_the_amount_of_the_shortest_run(monkeypatch: pytest.MonkeyPatch):
    times = iter([0.0, 0.5, 1.0, 1.25, 2.0, 3.0])
    monkeypatch.setattr("byhand.roofline.time.perf_counter", lambda: next(times))
    runs: list[int] = []
    probe = roofline.Probe(lambda: runs.append(1), 5e9)
    assert roofline._best(probe, 3) == 5.0 / 0.25
    assert len(runs) == 4  # the first warms up


def test_a_signal_is_acknowledged_at_once_with_what_a_second_one_loses(tmp_path: Path):
    trainer = small.new_trainer(tmp_path)
    assert isinstance(trainer.display, small.Quiet)
    trainer._acknowledge(signal.SIGTERM)
    trainer._acknowledge(signal.SIGINT)
    trainer.saved = 4
    trainer._acknowledge(signal.SIGINT)
    words = "stopping as soon as this step is done"
    assert trainer.display.lines == [
        f"SIGTERM: {words}",
        f"SIGINT: {words} (Ctrl-C again ends at once, which loses everything)",
        f"SIGINT: {words} (Ctrl-C again ends at once, which loses the steps after step 4)",
    ]
