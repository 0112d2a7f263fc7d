"""`byhand generate`: generate text with a trained model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from byhand.cli import flags
from byhand.errors import UserError
from byhand.text.tokenizer import plain_ids

if TYPE_CHECKING:
    from byhand.text import Tokenizer

EPILOG = """\
examples:
  byhand generate runs/first --prompt "The "
  byhand generate runs/s --prompt "ROMEO:" --max-new-tokens 500 --temperature 0.8 --top-k 20
  byhand generate runs/s --prompt-file scene.txt --num-return-sequences 3
  fortune | byhand generate runs/s --prompt -
"""


def add_command(commands: Any) -> None:
    command = commands.add_parser(
        "generate",
        help="generate text with a trained model",
        description="Continue a prompt with a trained model, token by token.",
        epilog=EPILOG,
    )
    command.set_defaults(run=run)
    flags.add_run(command)
    prompt = command.add_mutually_exclusive_group()
    prompt.add_argument(
        "--prompt",
        type=flags.text,
        metavar="TEXT",
        help="the text to continue, made of tokens of the model's vocabulary; - reads it from the "
        "standard input (default: a newline)",
    )
    prompt.add_argument(
        "--prompt-file",
        type=flags.text,
        metavar="FILE",
        help="a UTF-8 file with the text to continue; a line break at its end is left out",
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
        type=flags.non_negative,
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
        "--num-return-sequences",
        type=flags.positive_int,
        default=1,
        metavar="N",
        help="how many texts to generate, each from the prompt on (default: 1)",
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

    from byhand.generation import stream
    from byhand.runs.load import load_trained
    from byhand.text.pipeline import PipelineTokenizer

    flags.require_device(args.device)
    flags.use_threads(args.threads)
    prompt = _prompt(args)
    trained = load_trained(args.run_folder, args.checkpoint, args.precision, args.device)
    tokenizer = trained.tokenizer
    if tokenizer is None or trained.config.task != "language_model":
        raise UserError(f"the model in {args.run_folder} does not generate text")
    prompt = _with_known_line_ends(prompt, tokenizer)
    ids, rng = plain_ids(tokenizer, prompt or tokenizer.start), np.random.default_rng(args.seed)
    if not len(ids):
        raise UserError(f"the prompt {prompt!r:.60} has no tokens in {args.run_folder}")
    for number in range(1, args.num_return_sequences + 1):
        if args.num_return_sequences > 1:
            sys.stdout.write(f"--- {number} of {args.num_return_sequences} ---\n")
        sys.stdout.write(prompt)
        # A character may consist of several tokens.
        decoding = tokenizer.stream() if isinstance(tokenizer, PipelineTokenizer) else None
        if decoding and prompt:
            decoding.follow(ids)
        for token in stream(
            trained.model,
            ids,
            args.max_new_tokens,
            temperature=args.temperature,
            top_k=args.top_k,
            rng=rng,
            cache=not args.no_cache,
        ):
            sys.stdout.write(decoding.add(token) if decoding else tokenizer.decode([token]))
            sys.stdout.flush()
        if decoding:
            sys.stdout.write(decoding.finish())
        sys.stdout.write("\n")
    return 0


def _prompt(args: argparse.Namespace) -> str:
    """The prompt; "" if none was given."""
    if args.prompt_file is None and args.prompt != "-":
        return args.prompt or ""
    name = args.prompt_file or "the standard input"
    try:
        data = Path(args.prompt_file).read_bytes() if args.prompt_file else sys.stdin.buffer.read()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read the prompt from {name}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text: byte {error.start} does not fit") from None
    for end in ("\r\n", "\n"):
        if text.endswith(end):
            text = text.removesuffix(end)
            break
    if not text:
        raise UserError(f"the prompt from {name} is empty")
    return text


def _with_known_line_ends(prompt: str, tokenizer: Tokenizer) -> str:
    """The prompt with newlines for the line ends of Windows, unless the vocabulary has them: the
    texts of a training are read in the same way.
    """
    try:
        tokenizer.encode("\r")
        return prompt
    except UserError:
        return prompt.replace("\r\n", "\n").replace("\r", "\n")
