"""`byhand generate`: let a trained model write."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from byhand.cli import flags

EPILOG = """\
examples:
  byhand generate runs/first --prompt "The "
  byhand generate runs/s --prompt "ROMEO:" --tokens 500 --temperature 0.8 --top-k 20
"""


def add_command(commands: Any) -> None:
    command = commands.add_parser(
        "generate",
        help="let a trained model write",
        description="Continue a prompt with a trained model, character by character.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.set_defaults(run=run)
    flags.add_run(command)
    command.add_argument(
        "--prompt",
        default="",
        metavar="TEXT",
        help="what to continue, in characters of the text it learned from (default: a new line)",
    )
    command.add_argument(
        "--tokens",
        type=flags.count,
        default=300,
        metavar="N",
        help="how many characters to write (default: 300)",
    )
    command.add_argument(
        "--temperature",
        type=flags.number,
        default=0.8,
        metavar="T",
        help="1 follows the model's probabilities, less is safer and more repetitive, more is "
        "wilder, 0 always takes the likeliest character (default: 0.8)",
    )
    command.add_argument(
        "--top-k",
        type=flags.count,
        metavar="K",
        help="choose among the K likeliest characters only (default: all)",
    )
    command.add_argument(
        "--seed",
        type=flags.count_or_none,
        default=0,
        metavar="N",
        help="the same seed writes the same text; another one, another text (default: 0)",
    )
    command.add_argument(
        "--no-cache",
        action="store_true",
        help="read the whole window again for every character: the same text, only slower",
    )
    flags.add_precision(command, "as in training")
    flags.add_device(command)
    flags.add_threads(command)


def run(args: argparse.Namespace) -> int:
    import numpy as np

    from byhand.generation import sampling, stream
    from byhand.training.load import load

    sampling.check(args.temperature, args.top_k)
    flags.require_device(args.device)
    flags.use_threads(args.threads)
    trained = load(args.run_folder, args.checkpoint, args.precision, args.device)
    tokenizer = trained.config.tokenizer
    prompt = args.prompt or ("\n" if "\n" in tokenizer.characters else tokenizer.characters[0])
    ids = tokenizer.encode(prompt)
    sys.stdout.write(args.prompt)
    for token in stream(
        trained.model,
        ids,
        args.tokens,
        temperature=args.temperature,
        top_k=args.top_k,
        rng=np.random.default_rng(args.seed),
        cache=not args.no_cache,
    ):
        sys.stdout.write(tokenizer.decode([token]))
        sys.stdout.flush()
    sys.stdout.write("\n")
    return 0
