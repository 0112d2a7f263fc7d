"""Labelled examples in JSONL and TSV files: texts with labels, tokens with tags, questions with
answers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from byhand.data.corpus import TextSource
from byhand.errors import UserError, suggestion

# A kind of examples, named as the task that learns from them -> the fields of an example.
FIELDS = {
    "classification": ("text", "label"),
    "token_classification": ("tokens", "tags"),
    "span": ("question", "context", "answer"),
}
_KNOWN = tuple(name for names in FIELDS.values() for name in names)
_MORE = ("text_pair", "answer_start")  # fields that an example may have besides


def is_examples(name: str) -> bool:
    """Whether a file of this name has labelled examples, and no plain text."""
    return name.lower().endswith((".jsonl", ".ndjson", ".tsv"))


class Examples(list[dict[str, Any]]):
    """Examples of one kind, each a dict:

        "classification"        text: str, label: str, or list of str for several labels;
                                text_pair: str, if there is a second text
        "token_classification"  tokens: list of str, tags: list of str, as long
        "span"                  question, context: str, answer: list of str, the first of which is
                                at context[answer_start:]; empty without an answer

    Attributes:
        kind: one of FIELDS.
        name: of the file, for messages.
    """

    def __init__(self, examples: Iterable[dict[str, Any]], kind: str, name: str) -> None:
        super().__init__(examples)
        self.kind, self.name = kind, name


def read_examples(source: str | os.PathLike[str] | TextSource, kind: str | None = None) -> Examples:
    """The examples of a file, or of a text from `open_corpus`. Their fields say of which kind they
    are, unless `kind` does.

    A name that ends in .tsv is a table whose first line names the columns; the words of `tokens`
    and `tags` are separated by spaces. Any other file is JSONL: an object on each line. Empty
    lines are skipped.

    UserError names the file and the line that is wrong.
    """
    name = source.name if isinstance(source, TextSource) else os.fspath(source)
    if kind is not None and kind not in FIELDS:
        near = suggestion(kind, FIELDS)
        raise UserError(f"there are no examples of kind {kind!r}{near}: {', '.join(FIELDS)}")
    lines = _lines_of(source) if isinstance(source, TextSource) else _lines(name)
    rows = _table(name, lines) if name.lower().endswith(".tsv") else _objects(name, lines)
    made: list[dict[str, Any]] = []
    for line, row in rows:
        where = f"{name}, line {line}"
        if kind is None:
            kind = _kind_of(where, row)
        made.append(_CHECKS[kind](where, row, FIELDS[kind]))
    if kind is None or not made:
        raise UserError(f"{name} has no examples")
    return Examples(made, kind, name)


def checked_examples(examples: Iterable[Mapping[str, Any]], kind: str | None = None) -> Examples:
    """Examples that are in memory, checked as those of a file: "example 0" is the first."""
    if isinstance(examples, Examples):
        if kind not in (None, examples.kind):
            raise UserError(f"{examples.name} has examples of kind {examples.kind}, not {kind}")
        return examples
    made: list[dict[str, Any]] = []
    for i, row in enumerate(examples):
        if not isinstance(row, Mapping):
            raise UserError(f"example {i} must be a dict, not {type(row).__name__}")
        kind = kind or _kind_of(f"example {i}", row)
        made.append(_CHECKS[kind](f"example {i}", row, FIELDS[kind]))
    if kind is None or not made:
        raise UserError("there are no examples")
    return Examples(made, kind, "the examples")


def texts_of(examples: Examples) -> Iterator[str]:
    """All texts of the examples, such as a tokenizer learns from."""
    for example in examples:
        for name in ("text", "text_pair", "question", "context"):
            if name in example:
                yield example[name]
        if "tokens" in example:
            yield " ".join(example["tokens"])


# --- The files ------------------------------------------------------------------------------------


def _lines(name: str) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file that are not empty, with their numbers from 1."""
    try:
        with open(Path(name), "rb") as file:
            for number, data in enumerate(file, 1):
                try:
                    line = data.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise UserError(
                        f"{name}, line {number} is not UTF-8 text: its byte {error.start} "
                        f"(0x{data[error.start]:02x}) does not fit"
                    ) from None
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except FileNotFoundError:
        raise UserError(f"there is no file called {name!r}") from None
    except OSError as error:
        what = "it is a folder" if Path(name).is_dir() else error.strerror
        raise UserError(f"cannot read {name}: {what}") from None


def _lines_of(text: TextSource) -> Iterator[tuple[int, str]]:
    """The same of a text that is read in blocks."""
    rest, number = "", 0
    for block in text.blocks():
        *whole, rest = (rest + block).split("\n")
        for line in whole:
            number += 1
            if line.strip():
                yield number, line
    if rest.strip():
        yield number + 1, rest


def _objects(name: str, lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            why = getattr(error, "msg", "it is nested too deeply")
            place = f" at column {error.colno}" if hasattr(error, "colno") else ""
            raise UserError(f"{name}, line {number} is not JSON: {why}{place}") from None
        if not isinstance(row, dict):
            raise UserError(
                f"{name}, line {number} must be an object such as "
                f'{{"text": "...", "label": "..."}}, not {type(row).__name__}'
            )
        yield number, row


def _table(name: str, lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, dict[str, Any]]]:
    columns: list[str] = []
    for number, line in lines:
        cells = line.split("\t")
        if not columns:
            columns = [cell.strip() for cell in cells]
            _kind_of(f"{name}, line {number}, which names the columns,", dict.fromkeys(columns))
            continue
        if len(cells) != len(columns):
            raise UserError(
                f"{name}, line {number} has {len(cells)} columns, and line 1 names {len(columns)}"
            )
        row: dict[str, Any] = dict(zip(columns, cells, strict=True))
        for key in ("tokens", "tags"):
            if key in row:
                row[key] = row[key].split()
        if "answer_start" in row:
            start = row["answer_start"].strip()
            row["answer_start"] = int(start) if start.isdecimal() and len(start) < 18 else start
        yield number, row


# --- The fields -----------------------------------------------------------------------------------


def _kind_of(where: str, row: Mapping[str, Any]) -> str:
    for kind, names in FIELDS.items():
        if all(name in row for name in names):
            return kind
    unknown = [name for name in row if name not in (*_KNOWN, *_MORE)]
    near = suggestion(unknown[0], _KNOWN) if unknown else ""
    has = ", ".join(map(str, row)) or "nothing"
    raise UserError(
        f"{where} must have text and label, tokens and tags, or question, context and answer, and "
        f"has {has}{near}"
    )


def _text(where: str, row: Mapping[str, Any], name: str) -> str:
    if name not in row:
        raise UserError(f"{where} has no {name!r}")
    value = row[name]
    if not isinstance(value, str):
        raise UserError(f"{where}: {name} must be a text, not {value!r:.60}")
    if not value.strip():
        raise UserError(f"{where}: {name} is empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: {name} has half of a surrogate pair") from None
    return value


def _label(where: str, name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise UserError(f"{where}: {name} must be a text or a whole number, not {value!r:.60}")
    return str(value)


def _classified(where: str, row: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    made: dict[str, Any] = {"text": _text(where, row, "text")}
    if row.get("text_pair") is not None:
        made["text_pair"] = _text(where, row, "text_pair")
    if "label" not in row:
        raise UserError(f"{where} has no 'label'")
    label = row["label"]
    if isinstance(label, list):
        made["label"] = [_label(where, "label", one) for one in label]
    else:
        made["label"] = _label(where, "label", label)
    return made


def _tagged(where: str, row: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name in names:
        if name not in row:
            raise UserError(f"{where} has no {name!r}")
        if not isinstance(row[name], list) or not row[name]:
            raise UserError(f"{where}: {name} must be a list of words, not {row[name]!r:.60}")
        made[name] = [_label(where, f"{name}[{i}]", one) for i, one in enumerate(row[name])]
    tokens, tags = made["tokens"], made["tags"]
    if len(tokens) != len(tags):
        raise UserError(f"{where} has {len(tokens)} tokens and {len(tags)} tags")
    return made


def _asked(where: str, row: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    made: dict[str, Any] = {name: _text(where, row, name) for name in ("question", "context")}
    if "answer" not in row:
        raise UserError(f"{where} has no 'answer'")
    given = row["answer"]
    answers = given if isinstance(given, list) else [] if given in (None, "") else [given]
    for answer in answers:
        if not isinstance(answer, str) or not answer.strip():
            raise UserError(f"{where}: answer must be a text, not {answer!r:.60}")
    made["answer"], made["answer_start"] = answers, 0
    if not answers:
        return made
    context, answer, start = made["context"], answers[0], row.get("answer_start")
    if start is None:
        start = context.find(answer)
        if start < 0:
            raise UserError(f"{where}: the answer {answer!r:.60} is not in the context")
    if isinstance(start, bool) or not isinstance(start, int) or start < 0:
        raise UserError(f"{where}: answer_start must be a whole number, not {start!r:.60}")
    if context[start : start + len(answer)] != answer:
        raise UserError(
            f"{where}: the answer {answer!r:.60} is not at character {start} of the context, where "
            f"{context[start : start + len(answer)]!r:.60} is"
        )
    made["answer_start"] = start
    return made


_CHECKS: dict[str, Any] = {
    "classification": _classified,
    "token_classification": _tagged,
    "span": _asked,
}
