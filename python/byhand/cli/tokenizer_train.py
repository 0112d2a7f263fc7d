"""`byhand tokenizer train`."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from byhand import registry
from byhand.cli import flags
from byhand.cli.tokenizer_flags import source
from byhand.errors import UserError
from byhand.text.tokenizer import kind_named, size_named

if TYPE_CHECKING:
    from byhand.data import TextSource
    from byhand.text import Tokenizer


def add_action(commands: Any) -> None:
    command = commands.add_parser(
        "train",
        help="make a tokenizer for a text",
        description="Make a tokenizer for texts. The same texts give the same vocabulary, for any "
        "number of threads.",
    )
    command.set_defaults(run=_train)
    command.add_argument(
        "corpus",
        nargs="*",
        type=flags.text,
        metavar="CORPUS",
        help="UTF-8 files, - for the standard input, or a name as for `byhand train` (default: "
        "python-docs)",
    )
    command.add_argument(
        "--tokenizer",
        type=flags.text,
        default="bpe",
        metavar="KIND",
        help="bpe, wordpiece, unigram, word or char, with the size of the vocabulary after a "
        "colon (default: bpe, whose size is 8192)",
    )
    command.add_argument(
        "--out",
        type=flags.text,
        required=True,
        metavar="FILE",
        help="a new file; the name says in which format, a folder gets a tokenizer.json",
    )
    command.add_argument(
        "--pattern",
        type=flags.text,
        metavar="NAME",
        help="how bpe divides a text into words: gpt2, gpt4, o200k, llama3, or a regular "
        "expression",
    )
    command.add_argument(
        "--special-token",
        dest="special_tokens",
        action="append",
        type=flags.text,
        metavar="TOKEN",
        help="a token such as <|endoftext|>, which no text becomes; may be given many times "
        "(default: those that are usual for the kind)",
    )
    command.add_argument(
        "--min-frequency",
        type=flags.positive_int,
        metavar="N",
        help="merge what occurs at least so often (bpe and wordpiece)",
    )
    command.add_argument("--json", action="store_true", help="print one line of JSON instead")
    flags.add_threads(command)


def _train(args: argparse.Namespace) -> int:
    from byhand.text.load import require_new, require_writable_name, save

    kind, size = _kind_and_size(args.tokenizer)
    options = _options(args, kind)
    require_new(require_writable_name(Path(args.out), kind))
    sources = [source(name) for name in args.corpus or ["python-docs"]]
    tokenizer = _trained(kind, size, sources, options)
    written = save(tokenizer, args.out, replace=False)
    if args.json:
        facts = {"kind": tokenizer.kind, "size": len(tokenizer), "sha256": tokenizer.sha256()}
        print(json.dumps({**facts, "files": [str(path) for path in written]}))
        return 0
    characters = sum(source.characters for source in sources)
    print(
        f"{tokenizer.kind} tokenizer with {len(tokenizer):,} tokens, from {characters:,} "
        f"characters: {', '.join(map(str, written))}"
    )
    return 0


def _kind_and_size(name: str) -> tuple[str, int | None]:
    kind = kind_named(name)
    registry.find("text", kind)
    return kind, size_named(name)


def _options(args: argparse.Namespace, kind: str) -> dict[str, Any]:
    """The flags that are given, as arguments of the kind's `train`. UserError for one that it does
    not have.
    """
    names = ("pattern", "special_tokens", "min_frequency", "threads")
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    train = getattr(registry.find("text", kind).Tokenizer, "train", None)
    known = inspect.signature(train).parameters if train is not None else ["threads"]
    for name in given:
        if name not in known:
            flag = "--" + name.replace("_", "-").removesuffix("s" if name[0] == "s" else "")
            raise UserError(f"{flag} has no effect with a tokenizer of kind {kind}")
    return given


def _trained(
    kind: str, size: int | None, sources: list[TextSource], options: dict[str, Any]
) -> Tokenizer:
    from rich.progress import Progress

    found: Any = registry.find("text", kind).Tokenizer
    if kind == "character":
        blocks = (block for source in sources for block in source.blocks())
        made: Tokenizer = found.from_blocks(blocks, size)
        return made
    if size is not None:
        options = {**options, "vocabulary_size": size}
    shown = sys.stderr.isatty()
    with Progress(console=_stderr(), transient=True, disable=not shown) as bar:
        task = bar.add_task("training", total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        made = found.train(sources, progress=progress, **options)
    return made


def _stderr() -> Any:
    from rich.console import Console

    return Console(stderr=True)
