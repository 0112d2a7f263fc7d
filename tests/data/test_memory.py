"""The memory that a long text takes: its ids in the smallest dtype, and no copy of the text."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from byhand.cli.main import main
from byhand.runs.plot import LossPlot
from tests.training import small

SETTINGS = ["--steps", "1", "--eval-batches", "1", "--sample-tokens", "1", "--val-ratio", "0.001"]
SHORT, LONG = 200_000, 1_200_000


def write(path: Path, length: int, characters: str) -> None:
    """A random text in which each of `characters` occurs."""
    codes = np.array([ord(c) for c in characters], "<u4")
    drawn = codes[np.random.default_rng(0).integers(len(codes), size=length - len(codes))]
    path.write_bytes((characters + drawn.tobytes().decode("utf-32-le")).encode())


def peak(*arguments: str) -> int:
    """The most bytes that Python and numpy held at once during a command."""
    tracemalloc.start()
    try:
        assert main(list(arguments)) == 0
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("characters", "bytes_each"),
    [
        ("to be\n", 1),
        ("to be é€😀\n", 1),  # of which Python makes 4 bytes a character
        ("".join(map(chr, range(0x3400, 0x3400 + 300))) + "\n", 2),
    ],
    ids=["ascii", "emoji", "cjk"],
)
def test_a_text_takes_the_memory_of_its_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, characters: str, bytes_each: int
):
    monkeypatch.setattr(LossPlot, "draw", lambda plot: None)  # slow, and not about the text
    for length in (SHORT, LONG):
        write(tmp_path / f"{length}.txt", length, characters)
    # Once without measuring: what is imported and kept on first use is not the text's.
    first = ["train", str(tmp_path / f"{SHORT}.txt"), "--out", str(tmp_path / "first")]
    assert main([*first, *SETTINGS, *small.SIZES]) == 0
    sizes = []
    for length in (SHORT, LONG):
        text, run = str(tmp_path / f"{length}.txt"), str(tmp_path / f"run{length}")
        began = peak("train", text, "--out", run, *SETTINGS, *small.SIZES)
        resumed = peak("train", "--resume", "--out", run, "--steps", "2")
        evaluated = peak("eval", run)
        sizes.append((began, resumed, evaluated))
    for short, long in zip(*sizes, strict=True):
        assert (long - short) / (LONG - SHORT) < bytes_each + 0.3
