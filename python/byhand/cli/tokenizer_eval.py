"""`byhand tokenizer eval`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from byhand.cli import flags
from byhand.cli.tokenizer_flags import add_tokenizer, load_named, source


def add_action(commands: Any) -> None:
    command = commands.add_parser(
        "eval",
        help="measure a tokenizer on a text and on languages",
        description="Measure how a tokenizer divides a text: bytes for each token, tokens for each "
        "word (between white space), the share of unknown tokens; the longest tokens; and the same "
        "sentence in several languages, with whether decoding gives it back.",
    )
    command.set_defaults(run=_eval)
    add_tokenizer(command)
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

    tokenizer = load_named(args)
    report: dict[str, Any] = {
        "kind": tokenizer.kind,
        "size": len(tokenizer),
        "sha256": tokenizer.sha256(),
    }
    if args.corpus is not None:
        report["text"] = evaluate_text(tokenizer, source(args.corpus).blocks())
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
