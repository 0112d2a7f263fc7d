"""`byhand info`: what is installed and what it runs on."""

from __future__ import annotations

import argparse
from typing import Any


def add_command(commands: Any) -> None:
    command = commands.add_parser(
        "info",
        help="what is installed and what it runs on",
        description="Version, back ends built and chosen, instruction sets, threads and the GPU.\n"
        "Please include it when you report a problem.",
    )
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import byhand
    from byhand.cli import flags

    flags.use_threads(None, start=False)
    for name, value in byhand.info().items():
        if isinstance(value, (list, tuple)):
            value = ", ".join(map(str, value)) or "none"
        print(f"{name.replace('_', ' '):18}{value or '-'}")
    return 0
