"""`byhand demo`: the worked examples of the study guide."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from byhand import registry
from byhand.cli import flags
from byhand.errors import UserError
from byhand.files import write_atomically
from byhand.runs import plot

if TYPE_CHECKING:
    from byhand.demos.demo import Demo

DESCRIPTION = """\
A worked example of the study guide, computed by byhand's own layers: its numbers, with those that
the guide prints beside them. `byhand demo` alone lists the examples.
"""


def add_command(commands: Any) -> None:
    command = commands.add_parser(
        "demo",
        help="show a worked example of the study guide",
        description=DESCRIPTION,
    )
    command.set_defaults(run=run)
    command.add_argument(
        "name",
        type=flags.text,
        nargs="?",
        metavar="NAME",
        help="the example to show (default: a list of all)",
    )
    command.add_argument("--list", action="store_true", help="list the examples, one in a line")
    command.add_argument(
        "--plot", action="store_true", help="draw it too, into demo-NAME.png or the file of --out"
    )
    command.add_argument(
        "--out", type=flags.text, metavar="FILE", help="the file of --plot, which ends in .png"
    )


def run(args: argparse.Namespace) -> int:
    flags.use_threads(None, start=False)
    if args.name is None or args.list:
        if args.name is not None or args.plot or args.out is not None:
            raise UserError(
                "--list is used alone: byhand demo --list"
                if args.list
                else "--plot needs the NAME of an example: `byhand demo` lists them"
            )
        print(_listed())
        return 0
    name = args.name.replace("-", "_")
    kind = registry.find("demos", name).Demo
    # Every mistake is found before anything is computed.
    path = _plot_path(args, name)
    figure = _figure() if path is not None else None
    demo = kind()
    print(demo.text())
    if path is not None:
        _draw(demo, figure, path)
        print(f"\nthe plot is in {path}")
    return 0


def _listed() -> str:
    names = registry.kinds("demos")
    width = max(map(len, names))
    lines = []
    for name in names:
        kind = registry.find("demos", name).Demo
        lines.append(f"{name:{width}}  {', '.join(kind.rows)}  {kind.about}")
    return "\n".join([*lines, "", "byhand demo NAME shows one; --plot draws it"])


def _plot_path(args: argparse.Namespace, name: str) -> Path | None:
    """Where to draw; None without --plot."""
    if not args.plot:
        if args.out is not None:
            raise UserError("--out is the file of --plot: add --plot")
        return None
    path = Path(args.out or f"demo-{name}.png")
    if path.suffix.lower() != ".png":
        raise UserError(f"--out must be a file that ends in .png, not {args.out}")
    if path.is_dir():
        raise UserError(f"--out must be a file, but {path} is a folder")
    if not path.parent.is_dir():
        raise UserError(f"--out must be in a folder that exists, but there is no {path.parent}")
    return path


def _figure() -> Any:
    try:
        return plot.new_figure()
    except Exception as error:  # of many kinds: see runs/plot.py
        raise UserError(
            f"--plot needs matplotlib, which cannot be used ({plot.in_short(error)}): "
            "pip install 'byhand[plot]'"
        ) from None


def _draw(demo: Demo, figure: Any, path: Path) -> None:
    try:
        demo.draw(figure)
        png = plot.png_of(figure)
    except Exception as error:  # of many kinds, too
        raise UserError(f"{path} is not drawn ({plot.in_short(error)})") from None
    write_atomically(path, png)
