"""Damaged files of every format: one sentence, or a tokenizer that works; memory stays bounded."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import pytest

from byhand import text
from byhand.errors import UserError
from tests.text.made_files import all_files

CORPUS = Path(__file__).parent / "corpus"  # hostile files
SENTENCE = "hello world, héllo <sep> 世界 \n"
_INTERESTING = (
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\n",
    b" ",
    b"\xff" * 8,
    b"\0" * 8,
    b"{",
    b"[" * 99,
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """For each file's name: the contents of the files that belong together."""
    folder = tmp_path_factory.mktemp("made")
    made = {path.name: path.read_bytes() for path in all_files(folder)}
    together = {"vocab.json": ["merges.txt"], "merges.txt": ["vocab.json"]}
    settings = folder / "made.tiktoken.json"
    found = {
        name: {name: data, **{other: made[other] for other in together.get(name, ())}}
        for name, data in made.items()
    }
    found["made.tiktoken"][settings.name] = settings.read_bytes()
    found["tokenizer.json"] = {"tokenizer.json": _tokenizer_json(folder)}
    return found


def _tokenizer_json(folder: Path) -> bytes:
    path = folder / "tokenizer.json"
    text.save(text.load(folder / "vocab.json"), path)
    return path.read_bytes()


NAMES = ("vocab.json", "merges.txt", "made.tiktoken", "vocab.txt", "unigram.model", "bpe.model",
         "llama.gguf", "gpt2.gguf", "bert.gguf", "t5.gguf", "tokenizer.json")  # fmt: skip


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The data with a few changes of one kind."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(out) + 1)
        change = rng.randrange(7)
        if change == 0 and out:
            out[at - 1] = rng.randrange(256)
        elif change == 1 and out:
            out[at - 1] ^= 1 << rng.randrange(8)
        elif change == 2:
            del out[at:]
        elif change == 3:
            del out[at : at + rng.choice((1, 2, 8, 100))]
        elif change == 4:
            out[at:at] = rng.choice(_INTERESTING)
        elif change == 5:
            chunk = rng.choice(_INTERESTING)
            out[at : at + len(chunk)] = chunk
        else:
            begin = rng.randrange(len(out) + 1)
            out[at:at] = out[begin : begin + rng.randrange(1, 60)]
    return bytes(out)


def try_to_load(folder: Path, name: str, contents: dict[str, bytes]) -> bool:
    """Whether the file is a tokenizer; if it is, it encodes and decodes."""
    for file, data in contents.items():
        (folder / file).write_bytes(data)
    refused = ""
    try:
        tokenizer = text.load(folder / name)
    except UserError as error:
        refused = str(error)
    if refused:
        assert len(refused) < 2000
        assert "\n" not in refused
        return False
    try:
        ids = tokenizer.encode(SENTENCE)
    except UserError:
        return True
    assert ((ids >= 0) & (ids < len(tokenizer))).all()
    tokenizer.decode(ids)
    return True


def _peak() -> int:
    """The most memory that this process had, in bytes; 0 where the system does not say."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def run(files: dict[str, dict[str, bytes]], name: str, folder: Path, seconds: float, most: int):
    assert try_to_load(folder, name, files[name])
    before = _peak()
    rng, loaded, tried = random.Random(0), 0, 0
    end = time.monotonic() + seconds
    while time.monotonic() < end and tried < most:
        victim = rng.choice(list(files[name]))
        contents = {**files[name], victim: damaged(files[name][victim], rng)}
        (folder / "last").write_bytes(contents[victim])
        loaded += try_to_load(folder, name, contents)
        tried += 1
    assert _peak() - before < 64 << 20
    assert 0 < loaded < tried


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files(name: str, files: dict[str, dict[str, bytes]], tmp_path: Path):
    run(files, name, tmp_path, seconds=2.0, most=150)


@pytest.mark.deep
@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_for_long(name: str, files: dict[str, dict[str, bytes]], tmp_path: Path):
    run(files, name, tmp_path, seconds=20.0, most=1_000_000)


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*")), ids=lambda path: path.name)
def test_hostile_files(path: Path, tmp_path: Path):
    name = path.name.partition("-")[2]
    try_to_load(tmp_path, name, {name: path.read_bytes()})


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_ends_early(name: str, files: dict[str, dict[str, bytes]], tmp_path: Path):
    """At every 97th byte."""
    whole = files[name][name]
    for size in range(0, len(whole), 97):
        try_to_load(tmp_path, name, {**files[name], name: whole[:size]})
