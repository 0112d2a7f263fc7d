"""The parser of the command line; its errors are one sentence."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from byhand.cli import bench, demo, evaluate, export, generate, info, tokenizer, train
from byhand.errors import suggestion

DESCRIPTION = "Neural networks by hand: train a language model on a text and generate text with it."

EPILOG = """\
a first session:
  byhand train --out runs/first           learn from Python's own documentation: no download
  byhand generate runs/first              generate text with it
  byhand train shakespeare --out runs/s   learn from Tiny Shakespeare (1 MB, downloaded once)
  byhand train my.txt --out runs/mine     learn from any UTF-8 text file
  byhand demo attention                   see a part of the model at work, number by number

'byhand COMMAND --help' explains each command and its flags.
"""


class _Help(argparse.RawDescriptionHelpFormatter):
    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):
            # The names of commands are indented, which argparse leaves out of their length.
            self._action_max_length += self._indent_increment


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one sentence, without the usage above them. It keeps the
    lines of descriptions, and flags cannot be abbreviated.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_Help, allow_abbrev=False, **options)
        # argparse does not take -1e-3, -inf and -1,2 for values. No flag begins like a number.
        self._negative_number_matcher = re.compile(r"-(\.?\d|inf|nan)", re.IGNORECASE)

    def error(self, message: str) -> NoReturn:
        # Of a flag with two names, the message has the shorter.
        message = re.sub(r"^argument (--[\w-]+)/[^:]+:", r"argument \1:", message)
        print(f"byhand: {' '.join(message.split())} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


def parser(arguments: Sequence[str] = ()) -> tuple[Parser, dict[str, Parser]]:
    """The parser of all commands, and those of the commands by name; `arguments` name the model
    whose flags `byhand train` has.
    """
    top = Parser(
        prog="byhand",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    top.add_argument("--version", action="store_true", help="print the version")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    train.add_command(commands, train.model_in(arguments))
    for module in (generate, evaluate, export, tokenizer, demo, info, bench):
        module.add_command(commands)
    return top, commands.choices


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """What the command line says; its `run` does it. SystemExit after --help (status 0) and after a
    mistake, which was printed (2).
    """
    top, commands = parser(arguments)
    if not arguments:
        top.print_help()
        raise SystemExit(0)
    name = arguments[0]
    if not name.startswith("-") and name not in commands:
        near = suggestion(name, commands)
        top.error(f"there is no command {name!r}{near}: choose from {', '.join(commands)}")
    chosen = commands.get(name, top)
    inner = _inner_commands(chosen)
    if inner and len(arguments) > 1 and not arguments[1].startswith("-"):
        if arguments[1] not in inner:
            near = suggestion(arguments[1], inner)
            chosen.error(
                f"there is no byhand {name} {arguments[1]}{near}: choose from {', '.join(inner)}"
            )
        chosen = inner[arguments[1]]
    _require_known_flags(chosen, arguments)
    args, rest = top.parse_known_args(arguments)
    if rest:
        flag = rest[0].startswith("-")
        chosen.error(f"there is no flag {rest[0]}" if flag else f"unexpected argument {rest[0]!r}")
    return args


def _inner_commands(command: Parser) -> dict[str, Parser]:
    """The commands of a command, as `byhand tokenizer` has them, by name."""
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction) and command.prog != "byhand":
            return dict(action.choices)
    return {}


def _require_known_flags(command: Parser, arguments: Sequence[str]) -> None:
    """Names the first unknown flag, before anything that is missing because of it."""
    known = [flag for action in command._actions for flag in action.option_strings]
    for argument in arguments:
        if argument == "--":
            return
        flag = argument.partition("=")[0]
        # Text with a space is a value, as in --prompt "--- a line".
        if flag.startswith("--") and " " not in argument and flag not in known:
            near = suggestion(flag[2:], (name[2:] for name in known))
            near = near.replace("mean ", "mean --")
            command.error(f"there is no flag {flag}{near}")
