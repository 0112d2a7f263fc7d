"""`byhand generate`: generate text with a trained model."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from byhand.cli import flags

EPILOG = """\
examples:
  byhand generate runs/first --prompt "The "
  byhand generate runs/s --prompt "ROMEO:" --max-new-tokens 500 --temperature 0.8 --top-k 20
"""


def add_command(commands: Any) -> None:
    command = commands.add_parser(
        "generate",
        help="generate text with a trained model",
        description="Continue a prompt with a trained model, token by token.",
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
        help="the text to continue, made of tokens of the model's vocabulary (default: a newline)",
    )
    command.add_argument(
        "--max-new-tokens",
        "--tokens",
        type=flags.positive_int,
        default=300,
        metavar="N",
        help="how many tokens to generate (default: 300)",
    )
    command.add_argument(
        "--temperature",
        type=flags.number,
        default=0.8,
        metavar="T",
        help="the logits are divided by it: 1 samples from the model's own distribution, a smaller "
        "value favours likely tokens, 0 always takes the most likely one (default: 0.8)",
    )
    command.add_argument(
        "--top-k",
        type=flags.positive_int,
        metavar="K",
        help="sample among the K most likely tokens only (default: all)",
    )
    command.add_argument(
        "--seed",
        type=flags.non_negative_int,
        default=0,
        metavar="N",
        help="of the random numbers: the same seed gives the same text (default: 0)",
    )
    command.add_argument(
        "--no-cache",
        action="store_true",
        help="compute the whole window again for every token: the same text, but slower",
    )
    flags.add_precision(command, "as in training")
    flags.add_device(command)
    flags.add_threads(command)


def run(args: argparse.Namespace) -> int:
    import numpy as np

    from byhand.errors import UserError
    from byhand.generation import sampling, stream
    from byhand.runs.load import load_trained

    sampling.check(args.temperature, args.top_k)
    flags.require_device(args.device)
    flags.use_threads(args.threads)
    trained = load_trained(args.run_folder, args.checkpoint, args.precision, args.device)
    tokenizer = trained.tokenizer
    if tokenizer is None or trained.config.task != "language_model":
        raise UserError(f"the model in {args.run_folder} does not generate text")
    sys.stdout.write(args.prompt)
    for token in stream(
        trained.model,
        tokenizer.encode(args.prompt or tokenizer.start),
        args.max_new_tokens,
        temperature=args.temperature,
        top_k=args.top_k,
        rng=np.random.default_rng(args.seed),
        cache=not args.no_cache,
    ):
        sys.stdout.write(tokenizer.decode([token]))
        sys.stdout.flush()
    sys.stdout.write("\n")
    return 0
