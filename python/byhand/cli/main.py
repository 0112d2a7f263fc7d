"""Reading the command line, and reporting every mistake of the user in one sentence."""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from byhand.cli import bench, evaluate, generate, info, train
from byhand.errors import UserError

DESCRIPTION = "Neural networks by hand: train a language model on a text and generate text with it."

EPILOG = """\
a first session:
  byhand train --out runs/first           learn from Python's own documentation: no download
  byhand generate runs/first              generate text with it
  byhand train shakespeare --out runs/s   learn from Tiny Shakespeare (1 MB, downloaded once)
  byhand train my.txt --out runs/mine     learn from any UTF-8 text file

'byhand COMMAND --help' explains each command and its flags.
"""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one sentence, without the usage above them."""

    def error(self, message: str) -> NoReturn:
        # Of a flag with two names, the message has the shorter.
        message = re.sub(r"^argument (--[\w-]+)/[^:]+:", r"argument \1:", message)
        print(f"byhand: {' '.join(message.split())} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


def parser(arguments: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser of all commands; `arguments` name the model whose flags `byhand train` has."""
    top = Parser(
        prog="byhand",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="store_true", help="print the version")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    train.add_command(commands, train.model_in(arguments))
    for module in (generate, evaluate, info, bench):
        module.add_command(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    0 done, 2 a mistake of the user (one sentence on stderr), 130 stopped by Ctrl-C, 143 by
    SIGTERM.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that cannot show a character shows a question mark.
        sys.stdout.reconfigure(errors="replace")
    top = parser(arguments)
    try:
        args = top.parse_args(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    if args.version:
        import byhand

        print(f"byhand {byhand.__version__}")
        return 0
    if args.command is None:
        top.print_help()
        return 0
    try:
        status: int = args.run(args)
        sys.stdout.flush()
        return status
    except UserError as error:
        return _fail(str(error))
    except BrokenPipeError:
        # The reader (head, less) has closed the pipe; Python must not flush again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}")
    except MemoryError as error:
        return _fail(f"there is not enough memory for this: {error or 'take a smaller model'}")
    except KeyboardInterrupt:
        print("\nbyhand: interrupted", file=sys.stderr)
        return 130


def _fail(sentence: str) -> int:
    print(f"byhand: {sentence}", file=sys.stderr)
    return 2
