"""Byte-pair encoding beside rustbpe, tiktoken and Hugging Face's tokenizers, on one thread.

    python -m bench.text_bpe             training and encoding
    python -m bench.text_bpe --json      one JSON object

The text is what every machine has: the sources of Python and of the installed packages. The
libraries that are not installed are left out. Processor time is measured, not time on the clock, so
that other programs disturb little.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from byhand.text.bpe import BPETokenizer
from byhand.text.pretokenise import PATTERNS

SIZE = 8192
RUNS = ["a", "^", " ", "=", "\n", "0", "\U0001f600", "ab"]


def corpus(characters: int) -> list[str]:
    """Sources and documents, one str for each file, of about this many characters in all."""
    folders = [Path(sysconfig.get_paths()[name]) for name in ("stdlib", "purelib")]
    texts: list[str] = []
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix not in (".py", ".md", ".rst", ".txt"):
                continue
            try:
                texts.append(path.read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError):
                continue
            characters -= len(texts[-1])
            if characters <= 0:
                return texts
    return texts


def seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def in_turns(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of processor time of each, taken in turns."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            taken[name].append(seconds(run))
    return {name: statistics.median(times) for name, times in taken.items()}


def training(texts: list[str], rounds: int) -> dict[str, float]:
    """Seconds to learn a vocabulary of SIZE from texts, divided by GPT-4's pattern."""
    pattern = PATTERNS["gpt4"]
    runs: dict[str, Callable[[], Any]] = {
        "byhand": lambda: BPETokenizer.train(texts, SIZE, pattern="gpt4", threads=1)
    }
    try:
        import rustbpe

        runs["rustbpe"] = lambda: rustbpe.Tokenizer().train_from_iterator(
            iter(texts), SIZE, pattern=pattern
        )
    except ImportError:
        pass
    try:
        import tokenizers
        from tokenizers import models, pre_tokenizers, trainers

        def hugging_face() -> None:
            tokenizer = tokenizers.Tokenizer(models.BPE())
            split = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
            byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
            tokenizer.train_from_iterator(
                texts, trainers.BpeTrainer(vocab_size=SIZE, show_progress=False)
            )

        runs["tokenizers"] = hugging_face
    except ImportError:
        pass
    return in_turns(runs, rounds)


def encoding(tokenizer: BPETokenizer, text: str, rounds: int) -> dict[str, float]:
    """Seconds to encode one long text."""
    runs: dict[str, Callable[[], Any]] = {"byhand": lambda: tokenizer.encode(text)}
    wanted = tokenizer.encode(text).tolist()
    try:
        import tiktoken

        ranks = {tokenizer._model.token(id): id for id in range(len(tokenizer))}
        theirs = tiktoken.Encoding(
            "bench", pat_str=PATTERNS["gpt4"], mergeable_ranks=ranks, special_tokens={}
        )
        assert theirs.encode_ordinary(text) == wanted
        runs["tiktoken"] = lambda: theirs.encode_ordinary(text)
    except ImportError:
        pass
    try:
        import tokenizers

        description = {k: v for k, v in tokenizer.to_dict().items() if k != "kind"}
        other = tokenizers.Tokenizer.from_str(json.dumps(description))
        assert other.encode(text).ids == wanted
        runs["tokenizers"] = lambda: other.encode(text)
    except ImportError:
        pass
    return in_turns(runs, rounds)


def one_unit(tokenizer: BPETokenizer, prose: str, rounds: int) -> dict[str, float]:
    """Seconds for a megabyte of prose, and of one unit again and again, which is one long word."""
    texts = {"prose": prose[:1_000_000]}
    texts.update({unit: unit * (1_000_000 // len(unit.encode())) for unit in RUNS})
    return in_turns({name: lambda t=t: tokenizer.encode(t) for name, t in texts.items()}, rounds)


def table(title: str, seconds: dict[str, float], megabytes: float) -> None:
    print(title)
    ours = next(iter(seconds.values()))
    for name, value in seconds.items():
        rate = megabytes / value
        print(f"  {name!r:14} {value * 1000:9.1f} ms  {rate:7.1f} MB/s  {value / ours:6.2f} x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--characters", type=int, default=24_000_000, help="of the training text")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    texts = corpus(arguments.characters)
    text = "".join(texts)[:2_000_000]
    tokenizer = BPETokenizer.train(texts, SIZE, pattern="gpt4")
    results = {
        "training": training(texts, arguments.rounds),
        "encoding": encoding(tokenizer, text, 3 * arguments.rounds),
        "one unit": one_unit(tokenizer, text, 3 * arguments.rounds),
    }
    if arguments.json:
        print(json.dumps(results))
        return
    table("training", results["training"], sum(map(len, texts)) / 1e6)
    table("encoding", results["encoding"], len(text.encode()) / 1e6)
    table("one megabyte of one unit", results["one unit"], 1.0)


if __name__ == "__main__":
    main()
