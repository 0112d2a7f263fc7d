"""How much memory training takes on a file whose words all differ."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = [
    pytest.mark.deep,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self"),
]

LETTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
OPTIONS = {"wordpiece": {"lowercase": False}}  # words stay different

MEASURE = """
import importlib, pathlib, sys
kind, path, options = sys.argv[1], pathlib.Path(sys.argv[2]), eval(sys.argv[3])

def status(name):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])

cls = importlib.import_module("byhand.text." + kind).Tokenizer
cls.train("a warm up " * 100, 300)
pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
before = status("VmRSS")
cls.train(path, 8192, threads=2, **options)
print(status("VmHWM") - before)
"""


def different_words(letters: int, size: int) -> list[bytes]:
    """Words of 5 to 7 letters, or of 4, that all differ; `size` bytes with a space after each."""
    rng = np.random.default_rng(0)
    lengths = [4] if letters == 4 else [5, 6, 7]
    words: dict[bytes, None] = {}
    total = 0
    while total < size:
        for length in lengths:
            drawn = rng.choice(np.frombuffer(LETTERS, np.uint8), (5000, length))
            for row in drawn:
                word = row.tobytes()
                if word not in words:
                    words[word] = None
                    total += length + 1
    return list(words)


@pytest.mark.parametrize("letters", [6, 4])
@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram", "word"])
def test_the_peak_is_bounded_by_the_distinct_words(kind: str, letters: int, tmp_path: Path):
    """At most 4 times the bytes of the distinct words and 64 MB more than at the start."""
    words = different_words(letters, 10_000_000)
    path = tmp_path / "words.txt"
    path.write_bytes(b" ".join(words))
    space = {"bpe": 1, "unigram": 3}.get(kind, 0)  # these words begin with " " or "▁"
    limit = 4 * sum(len(word) + space for word in words) + 64_000_000
    peaks: list[int] = []
    # On a loaded machine a thread may free its memory later than another takes its own.
    while len(peaks) < 3 and (not peaks or peaks[-1] >= limit):
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, kind, str(path), repr(OPTIONS.get(kind, {}))],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ,
        )
        peaks.append(int(done.stdout))
    assert min(peaks) < limit
