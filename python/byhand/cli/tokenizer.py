"""`byhand tokenizer`: train, use, measure and convert tokenizers."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from byhand.cli import flags, tokenizer_eval, tokenizer_train
from byhand.cli.tokenizer_flags import add_file, add_tokenizer, load_named
from byhand.errors import UserError

DESCRIPTION = """\
Tokenizers: what turns a text into the ids that a model learns from, and back.

A tokenizer is named by its file, or by a folder that has it, such as that of a run. The formats are
tokenizer.json of Hugging Face, vocab.json with merges.txt, NAME.tiktoken, NAME.model of
SentencePiece, vocab.txt, and NAME.gguf (which is read only).
"""

EPILOG = """\
examples:
  byhand tokenizer train my.txt --tokenizer bpe:4096 --out my/tokenizer.json
  echo "Hello world" | byhand tokenizer encode my/tokenizer.json
  echo "72 101 108" | byhand tokenizer decode my/tokenizer.json
  byhand tokenizer eval my/tokenizer.json my.txt
  byhand tokenizer convert my/tokenizer.json my.tiktoken
"""


def add_command(commands: Any) -> None:
    command = commands.add_parser(
        "tokenizer",
        help="train, use, measure and convert tokenizers",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    command.set_defaults(run=lambda args: _help(command))
    inner = command.add_subparsers(
        dest="action",
        metavar="ACTION",
        parser_class=type(command),
        help="what to do; `byhand tokenizer ACTION --help` explains its flags",
    )
    tokenizer_train.add_action(inner)
    _add_encode(inner)
    _add_decode(inner)
    tokenizer_eval.add_action(inner)
    _add_convert(inner)


def _help(command: argparse.ArgumentParser) -> int:
    command.print_help()
    return 0


# --- encode and decode ---------------------------------------------------------------------------


def _add_encode(commands: Any) -> None:
    command = commands.add_parser(
        "encode",
        help="print the token ids of a text",
        description="Print the ids of a text in one line. On a terminal, the text is printed with "
        "its tokens in colours, and the ids below it.",
    )
    command.set_defaults(run=_encode)
    add_tokenizer(command)
    add_file(command, "a UTF-8 file")
    command.add_argument(
        "--tokens",
        action="store_true",
        help="a line for each token: its id, the characters of the text where it begins and ends, "
        "and the token",
    )
    command.add_argument(
        "--no-special-tokens",
        action="store_true",
        help="leave out the tokens that the tokenizer puts around a text, such as [CLS]",
    )
    command.add_argument(
        "--allow-special",
        action="append",
        default=[],
        type=flags.text,
        metavar="TOKEN",
        help="a special token that the text may spell, or all; may be given many times (default: "
        "none, special tokens in a text are ordinary text)",
    )
    command.add_argument(
        "--json", action="store_true", help="print ids, tokens and offsets as one line of JSON"
    )


def _encode(args: argparse.Namespace) -> int:
    tokenizer = load_named(args)
    text = _read_text(args.file)
    if tokenizer.kind == "character":
        ids = tokenizer.encode(text).tolist()
        tokens = list(text)
        offsets = [[at, at + 1] for at in range(len(text))]
    else:
        allowed = "all" if "all" in args.allow_special else tuple(args.allow_special)
        options = {
            "add_special_tokens": not args.no_special_tokens,
            "allowed_special": allowed,
        }
        pipeline: Any = tokenizer
        ids = pipeline.encode(text, **options).tolist()
        tokens = [pipeline.id_to_token(id) for id in ids]
        wanted = args.json or args.tokens or sys.stdout.isatty()
        offsets = pipeline.offsets(text, **options).tolist() if wanted else []
    if args.json:
        print(json.dumps({"ids": ids, "tokens": tokens, "offsets": offsets}))
    elif args.tokens:
        for id, (begin, end), token in zip(ids, offsets, tokens, strict=True):
            print(f"{id}\t{begin}\t{end}\t{json.dumps(token, ensure_ascii=False)}")
    else:
        if sys.stdout.isatty():
            _print_coloured(text, tokens, offsets)
        print(" ".join(map(str, ids)))
    return 0


_COLOURS = ("on #264653", "on #7a3e2f", "on #2f5d3a", "on #5b3a6b", "on #6b5d1f")


def _print_coloured(text: str, tokens: list[str], offsets: list[list[int]]) -> None:
    from rich.console import Console
    from rich.text import Text

    shown, last = Text(), 0
    for number, (token, (begin, end)) in enumerate(zip(tokens, offsets, strict=True)):
        style = f"white {_COLOURS[number % len(_COLOURS)]}"
        if begin == end:  # a token that the text does not have, or a part of a character
            shown.append(token if (begin, end) == (0, 0) else "", style=f"bold {style}")
            continue
        shown.append(text[last:begin])
        # A line end has no width: a sign shows that it belongs to the token.
        shown.append(text[max(begin, last) : end].replace("\n", "\u23ce\n"), style=style)
        last = max(last, end)
    shown.append(text[last:])
    Console(highlight=False).print(shown, soft_wrap=True)


def _add_decode(commands: Any) -> None:
    command = commands.add_parser(
        "decode",
        help="print the text of token ids",
        description="Print the text of ids, which are separated by spaces, commas or line ends, or "
        "are JSON as `byhand tokenizer encode --json` prints it.",
    )
    command.set_defaults(run=_decode)
    add_tokenizer(command)
    add_file(command, "a file with the ids")
    command.add_argument(
        "--special-tokens", action="store_true", help="print special tokens too, such as [CLS]"
    )
    command.add_argument("--json", action="store_true", help='print {"text": ...} instead')


def _decode(args: argparse.Namespace) -> int:
    tokenizer: Any = load_named(args)
    ids = _read_ids(_read_text(args.file))
    if tokenizer.kind == "character":
        text = tokenizer.decode(ids)
    else:
        text = tokenizer.decode(ids, skip_special_tokens=not args.special_tokens)
    if args.json:
        print(json.dumps({"text": text}))
    elif sys.stdout.isatty():
        print(text)
    else:
        # What was encoded comes back byte for byte, whatever the encoding of the output is.
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode("utf-8"))
    return 0


def _read_ids(text: str) -> list[int]:
    if text.lstrip().startswith("{"):
        try:
            listed = json.loads(text)["ids"]
        except (ValueError, KeyError, RecursionError):
            raise UserError('the ids are not JSON with "ids", as encode --json prints it') from None
        words: list[Any] = listed if isinstance(listed, list) else [listed]
    else:
        words = text.replace(",", " ").replace("[", " ").replace("]", " ").split()
    ids = []
    for number, word in enumerate(words):
        try:
            if isinstance(word, bool | float):
                raise ValueError
            ids.append(int(word))
        except (ValueError, TypeError):
            raise UserError(f"id {number} is {word!r:.60}, not a whole number") from None
        if abs(ids[-1]) >= 1 << 63:
            raise UserError(f"id {number} is {word!r:.60}, which no vocabulary has")
    return ids


def _read_text(name: str) -> str:
    """A UTF-8 text, its line ends as they are."""
    shown = "the standard input" if name == "-" else name
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return data.decode("utf-8")
    except OSError as error:
        raise UserError(f"cannot read {shown}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{shown} is not UTF-8 text: byte {error.start} does not fit") from None


# --- convert ------------------------------------------------------------------------------------


def _add_convert(commands: Any) -> None:
    command = commands.add_parser(
        "convert",
        help="write a tokenizer in another format",
        description="Write a tokenizer in the format that the name of the new file says: "
        "tokenizer.json, vocab.json (with merges.txt), NAME.tiktoken (with NAME.tiktoken.json), "
        "NAME.model of SentencePiece, or vocab.txt. Where the format cannot hold the tokenizer, "
        "nothing is written.",
    )
    command.set_defaults(run=_convert)
    add_tokenizer(command)
    command.add_argument("out", type=flags.text, metavar="OUT", help="the new file")


def _convert(args: argparse.Namespace) -> int:
    from byhand.text.load import save

    for path in save(load_named(args), args.out, replace=False):
        print(path)
    return 0
