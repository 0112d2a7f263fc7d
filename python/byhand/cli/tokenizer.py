"""`byhand tokenizer`: train, use, measure and convert tokenizers."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from byhand.cli import flags
from byhand.errors import UserError

if TYPE_CHECKING:
    from byhand.data import TextSource
    from byhand.text import Tokenizer

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
    inner = command.add_subparsers(dest="action", metavar="ACTION", parser_class=type(command))
    for add in (_add_train, _add_encode, _add_decode, _add_eval, _add_convert):
        add(inner)


def _help(command: argparse.ArgumentParser) -> int:
    command.print_help()
    return 0


# --- train ---------------------------------------------------------------------------------------


def _add_train(commands: Any) -> None:
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
        help="where to write it; the name says in which format, a folder gets a tokenizer.json",
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
    from byhand.text.load import require_writable_name, save

    kind, size = _kind_and_size(args.tokenizer)
    options = _options(args, kind)
    require_writable_name(Path(args.out), kind)
    sources = [_source(name) for name in args.corpus or ["python-docs"]]
    tokenizer = _trained(kind, size, sources, options)
    written = save(tokenizer, args.out)
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
    from byhand import registry
    from byhand.text.tokenizer import kind_named, size_named

    kind = kind_named(name)
    registry.find("text", kind)
    return kind, size_named(name)


def _options(args: argparse.Namespace, kind: str) -> dict[str, Any]:
    """The flags that are given, as arguments of the kind's `train`. UserError for one that it does
    not have.
    """
    import inspect

    from byhand import registry

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

    from byhand import registry

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


def _source(name: str) -> TextSource:
    from byhand.data import TextSource, open_corpus

    if name != "-":
        return open_corpus(name)
    return TextSource("the standard input", sys.stdin.buffer.read())


# --- encode and decode ---------------------------------------------------------------------------


def _add_tokenizer(command: argparse.ArgumentParser) -> None:
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


def _load(args: argparse.Namespace) -> Tokenizer:
    from byhand.text.load import load

    return load(args.tokenizer, args.pattern)


def _add_encode(commands: Any) -> None:
    command = commands.add_parser(
        "encode",
        help="print the token ids of a text",
        description="Print the ids of a text in one line. On a terminal, the text is printed with "
        "its tokens in colours, and the ids below it.",
    )
    command.set_defaults(run=_encode)
    _add_tokenizer(command)
    command.add_argument(
        "file", nargs="?", default="-", type=flags.text, metavar="FILE",
        help="a UTF-8 file (default: the standard input)",
    )  # fmt: skip
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
    tokenizer = _load(args)
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
    _add_tokenizer(command)
    command.add_argument(
        "file", nargs="?", default="-", type=flags.text, metavar="FILE",
        help="a file with the ids (default: the standard input)",
    )  # fmt: skip
    command.add_argument(
        "--special-tokens", action="store_true", help="print special tokens too, such as [CLS]"
    )
    command.add_argument("--json", action="store_true", help='print {"text": ...} instead')


def _decode(args: argparse.Namespace) -> int:
    tokenizer: Any = _load(args)
    ids = _read_ids(_read_text(args.file))
    if tokenizer.kind == "character":
        text = tokenizer.decode(ids)
    else:
        text = tokenizer.decode(ids, skip_special_tokens=not args.special_tokens)
    if args.json:
        print(json.dumps({"text": text}))
    else:
        # The text and nothing else, so that what was encoded comes back, also in a pipe.
        sys.stdout.write(text + ("\n" if sys.stdout.isatty() else ""))
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
            raise UserError(f"id {number} is {word!r}, not a whole number") from None
        if abs(ids[-1]) >= 1 << 63:
            raise UserError(f"id {number} is {word!r}, which no vocabulary has")
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


# --- eval and convert ----------------------------------------------------------------------------


def _add_eval(commands: Any) -> None:
    command = commands.add_parser(
        "eval",
        help="measure a tokenizer on a text and on languages",
        description="Measure how a tokenizer divides a text: bytes for each token, tokens for each "
        "word (between white space), the share of unknown tokens; the longest tokens; and the same "
        "sentence in several languages, with whether decoding gives it back.",
    )
    command.set_defaults(run=_eval)
    _add_tokenizer(command)
    command.add_argument(
        "corpus",
        nargs="?",
        type=flags.text,
        metavar="CORPUS",
        help="a UTF-8 file, - for the standard input, or a name as for `byhand train` (default: "
        "the languages only)",
    )
    command.add_argument("--json", action="store_true", help="print one line of JSON instead")


def _eval(args: argparse.Namespace) -> int:
    from byhand.text.evaluate import evaluate_languages, evaluate_text, longest_tokens

    tokenizer = _load(args)
    report: dict[str, Any] = {
        "kind": tokenizer.kind,
        "size": len(tokenizer),
        "sha256": tokenizer.sha256(),
    }
    if args.corpus is not None:
        report["text"] = evaluate_text(tokenizer, _source(args.corpus).blocks())
    report["longest"] = longest_tokens(tokenizer)
    report["languages"] = evaluate_languages(tokenizer)
    if args.json:
        print(json.dumps(report))
    else:
        print("\n".join(_lines(report)))
    return 0


def _lines(report: dict[str, Any]) -> Iterator[str]:
    yield f"{report['kind']} tokenizer with {report['size']:,} tokens"
    text = report.get("text")
    if text is not None:
        yield (
            f"text: {text['bytes']:,} bytes, {text['characters']:,} characters, "
            f"{text['words']:,} words, {text['tokens']:,} tokens"
        )
        yield (
            f"      {text['bytes_per_token']:.3f} bytes per token, "
            f"{text['characters_per_token']:.3f} characters per token, "
            f"{text['tokens_per_word']:.3f} tokens per word"
        )
        yield (
            f"      {100 * text['unknown_rate']:.2f} % of the tokens unknown, "
            f"{100 * text['vocabulary_used']:.1f} % of the vocabulary used"
        )
    shown = ", ".join(json.dumps(token, ensure_ascii=False) for _, token in report["longest"])
    yield f"longest tokens: {shown}"
    yield ""
    yield f"{'language':10}{'characters':>11}{'tokens':>8}{'per word':>10}{'per char':>10}" + (
        f"{'bytes/token':>13}{'unknown':>9}  decoded"
    )
    for language, row in report["languages"].items():
        if row.get("refused"):
            yield f"{language:10}has characters that are not in the vocabulary"
            continue
        yield (
            f"{language:10}{row['characters']:>11}{row['tokens']:>8}{row['tokens_per_word']:>10.2f}"
            f"{1 / row['characters_per_token'] if row['tokens'] else 0:>10.2f}"
            f"{row['bytes_per_token']:>13.2f}{100 * row['unknown_rate']:>7.1f} %"
            f"  {'equal' if row['round_trip'] else 'differs'}"
        )


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
    _add_tokenizer(command)
    command.add_argument("out", type=flags.text, metavar="OUT", help="the new file")


def _convert(args: argparse.Namespace) -> int:
    from byhand.text.load import save

    for path in save(_load(args), args.out):
        print(path)
    return 0
