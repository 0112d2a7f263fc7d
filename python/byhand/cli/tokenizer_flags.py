"""What the actions of `byhand tokenizer` share."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from byhand.cli import flags

if TYPE_CHECKING:
    from byhand.data import TextSource
    from byhand.text import Tokenizer


def add_tokenizer(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "tokenizer", type=flags.text, metavar="TOKENIZER", help="its file or folder"
    )
    command.add_argument(
        "--pattern",
        type=flags.text,
        metavar="NAME",
        help="how a .tiktoken file divides a text, where nothing beside it says so: gpt2, gpt4, "
        "o200k, llama3, or a regular expression",
    )


def add_file(command: argparse.ArgumentParser, content: str) -> None:
    command.add_argument(
        "file",
        nargs="?",
        default="-",
        type=flags.text,
        metavar="FILE",
        help=f"{content} (default: the standard input)",
    )


def load_named(args: argparse.Namespace) -> Tokenizer:
    """The tokenizer that the flags name."""
    from byhand.text.load import load

    return load(args.tokenizer, args.pattern)


def source(name: str) -> TextSource:
    """A text that is named as for `byhand train`, or - for the standard input."""
    from byhand.data import TextSource, open_corpus

    if name != "-":
        return open_corpus(name)
    return TextSource("the standard input", sys.stdin.buffer.read())
