"""WordPiece and Unigram beside Hugging Face's tokenizers and sentencepiece, on one thread.

    python -m bench.text_models [--text FILE] [--megabytes 3] [--vocabulary 8000] [--rounds 5]

All sides alternate in one run; medians are printed, and how many times as fast byhand is. The text
is that of the sources of Python's standard library unless a file is named.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

os.environ["RAYON_NUM_THREADS"] = "1"  # of tokenizers


def sources(size: int) -> str:
    """The first `size` characters of the sources of the standard library."""
    parts: list[str] = []
    total = 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("**/*.py")):
        parts.append(path.read_text(encoding="utf-8", errors="replace"))
        total += len(parts[-1])
        if total >= size:
            break
    return "".join(parts)[:size]


def medians(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of each side; the sides take turns."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, call in sides.items():
            begin = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(found) for name, found in times.items()}


def report(what: str, sides: dict[str, Callable[[], object]], rounds: int) -> None:
    found = medians(sides, rounds)
    ours = found.pop("byhand")
    others = ", ".join(f"{name} {t:.3f} s ({t / ours:.1f}x)" for name, t in found.items())
    print(f"{what:24} byhand {ours:.3f} s, {others}", flush=True)


def main() -> None:
    import sentencepiece
    import tokenizers

    import byhand
    from byhand.text.unigram import UnigramTokenizer
    from byhand.text.wordpiece import WordPieceTokenizer

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--megabytes", type=float, default=3.0)
    parser.add_argument("--vocabulary", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    byhand.set_num_threads(1)
    size = int(args.megabytes * 1e6)
    text = args.text.read_text(encoding="utf-8")[:size] if args.text else sources(size)
    lines = [" ".join(line.split()) for line in text.split("\n")]
    lines = [line for line in lines if 0 < len(line) < 4000]
    clean = "\n".join(lines)
    print(f"{len(clean):,} characters, vocabulary {args.vocabulary}")

    ours = WordPieceTokenizer.train(clean, args.vocabulary, threads=1)
    theirs = tokenizers.Tokenizer.from_str(json.dumps(ours.description))
    report(
        "WordPiece encoding",
        {"byhand": lambda: ours.encode(clean), "tokenizers": lambda: theirs.encode(clean)},
        args.rounds,
    )
    report(
        "WordPiece, lines",
        {
            "byhand": lambda: ours.encode_batch(lines, threads=1),
            "tokenizers": lambda: theirs.encode_batch(lines),
        },
        args.rounds,
    )

    trained = io.BytesIO()

    def train_theirs() -> None:
        trained.seek(0)
        trained.truncate()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=trained,
            vocab_size=args.vocabulary,
            num_threads=1,
            input_sentence_size=0,
            normalization_rule_name="nmt_nfkc",
            minloglevel=2,
        )

    report(
        "Unigram training",
        {
            "byhand": lambda: UnigramTokenizer.train(
                lines, args.vocabulary, normalizer="nmt_nfkc", threads=1
            ),
            "sentencepiece": train_theirs,
        },
        min(args.rounds, 2),
    )
    unigram = UnigramTokenizer.train(lines, args.vocabulary, normalizer="nmt_nfkc", threads=1)
    processor = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    report(
        "Unigram, one text",
        {"byhand": lambda: unigram.encode(clean), "sentencepiece": lambda: processor.encode(clean)},
        args.rounds,
    )
    report(
        "Unigram, lines",
        {
            "byhand": lambda: unigram.encode_batch(lines, threads=1),
            "sentencepiece": lambda: processor.encode(lines, num_threads=1),
        },
        args.rounds,
    )


if __name__ == "__main__":
    main()
