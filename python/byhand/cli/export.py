"""`byhand export`: the weights of a run, without the state of its training."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from byhand.cli import flags

DESCRIPTION = """\
Copy a trained model to a folder of its own: config.json, tokenizer.json and best.safetensors, with
the weights only, a third of the size of a checkpoint. `byhand generate`, `byhand eval` and `byhand
train --from` take the new folder like that of a run; it cannot be resumed.
"""


def add_command(commands: Any) -> None:
    command = commands.add_parser(
        "export",
        help="copy a trained model without the state of its training",
        description=DESCRIPTION,
    )
    command.set_defaults(run=run)
    flags.add_run(command)
    command.add_argument(
        "--out", type=flags.text, required=True, metavar="DIR", help="the new folder, to be made"
    )


def run(args: argparse.Namespace) -> int:
    from byhand.runs.export import export
    from byhand.runs.hints import command_line

    count = export(args.run_folder, args.out, args.checkpoint)
    print(
        f"{args.out} has the {args.checkpoint} weights of {args.run_folder}: {count:,} numbers\n"
        f"generate text: {command_line('generate', Path(args.out))}"
    )
    return 0
