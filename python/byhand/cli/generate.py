"""`byhand generate`: generate text with a trained model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from byhand.cli import flags
from byhand.config import add_flags, given
from byhand.errors import UserError
from byhand.generation.config import GenerationConfig
from byhand.text.tokenizer import plain_ids

if TYPE_CHECKING:
    from byhand.text import Tokenizer

EPILOG = """\
examples:
  byhand generate runs/first --prompt "The "
  byhand generate runs/s --prompt "ROMEO:" --max-new-tokens 500 --temperature 0.8 --top-k 20
  byhand generate runs/s --prompt-file scene.txt --num-return-sequences 3
  byhand generate runs/s --prompt "To be" --temperature 0 --repetition-penalty 1.2
  byhand generate runs/s --prompt "ROMEO:" --top-p 0.9 --stop-strings '["\\n\\n"]'
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
    add_flags(command, GenerationConfig, defaults=_DEFAULTS)
    command.add_argument(
        "--tokens",
        dest="max_new_tokens",
        type=flags.positive_int,
        metavar="N",
        help="the same as --max-new-tokens",
    )
    command.add_argument(
        "--no-cache",
        dest="use_cache",
        action="store_false",
        default=None,
        help="the same as --no-use-cache",
    )
    flags.add_precision(command, "as in training")
    flags.add_device(command)
    flags.add_threads(command)


def run(args: argparse.Namespace) -> int:
    from byhand.generation import generate, stream
    from byhand.runs.load import load_trained

    settings = _settings(args)
    flags.require_device(args.device)
    flags.use_threads(args.threads)
    prompt = _prompt(args)
    trained = load_trained(args.run_folder, args.checkpoint, args.precision, args.device)
    model: Any = trained.model
    tokenizer = trained.tokenizer
    if tokenizer is None or trained.config.task != "language_model":
        raise UserError(f"the model in {args.run_folder} does not generate text")
    prompt = _with_known_line_ends(prompt, tokenizer)
    ids = plain_ids(tokenizer, prompt or tokenizer.start)
    if not len(ids):
        raise UserError(f"the prompt {prompt!r:.60} has no tokens in {args.run_folder}")
    count = settings.num_return_sequences
    searches = settings.num_beams > 1 or settings.penalty_alpha is not None
    try:
        settings.check_vocabulary(model.config.vocabulary_size)
        if args.overflow is None:
            _say_if_it_slides(settings, len(ids), model.config.context_size)
        if searches:
            texts = generate(model, ids, settings)[:, len(ids) :]
        for number in range(count):
            if count > 1:
                sys.stdout.write(f"--- {number + 1} of {count} ---\n")
            sys.stdout.write(prompt)
            if searches:
                parts = iter([tokenizer.decode(texts[number])])
            else:
                one = settings.replace(num_return_sequences=1)
                parts = stream(model, ids, one, number=number)
            for part in parts:
                sys.stdout.write(part)
                sys.stdout.flush()
            sys.stdout.write("\n")
    except UserError as error:
        raise flags.as_flags(error, [GenerationConfig]) from None
    return 0


# What the flags mean if they are not given, where it is not the default of GenerationConfig.
_DEFAULTS = {
    "max_length": "",
    "max_new_tokens": "300, without --max-length",
    "do_sample": "True, without --num-beams and --penalty-alpha",
    "temperature": "0.8",
    "overflow": "window",
}


def _settings(args: argparse.Namespace) -> GenerationConfig:
    """The settings that the flags give, with the defaults of this command."""
    values = {"overflow": "window", **given(args, GenerationConfig)}
    if "max_length" not in values:
        values.setdefault("max_new_tokens", 300)
    searches = values.get("num_beams", 1) > 1 or "penalty_alpha" in values
    if values.setdefault("do_sample", not searches) and not searches:
        values.setdefault("temperature", 0.8)
    try:
        return GenerationConfig(**values)
    except (TypeError, ValueError) as error:
        raise flags.as_flags(error, [GenerationConfig]) from None


def _say_if_it_slides(settings: GenerationConfig, prompt: int, context: int) -> None:
    """A note on the standard error if the text may exceed the context."""
    if prompt + settings.new_tokens(prompt) > context:
        print(
            f"byhand: where the text exceeds the context of {context} tokens, the model sees the "
            "end of it (--overflow window)",
            file=sys.stderr,
        )


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
