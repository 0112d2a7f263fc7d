"""Labelled examples in files: what is read, and the sentence for each mistake."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from byhand import data
from byhand.errors import UserError

GOOD: dict[str, list[dict[str, Any]]] = {
    "classification": [
        {"text": "good film", "label": "pos"},
        {"text": "äöü 漢字", "label": 0, "text_pair": "b"},
        {"text": "both", "label": ["a", "b"]},
        {"text": "none", "label": []},
    ],
    "token_classification": [
        {"tokens": ["Ada", "wrote"], "tags": ["B-PER", "O"]},
        {"tokens": ["1"], "tags": [3]},
    ],
    "span": [
        {"question": "Who?", "context": "It was Ada.", "answer": "Ada"},
        {"question": "Who?", "context": "Ada or Ada.", "answer": ["Ada", "x"], "answer_start": 7},
        {"question": "Why?", "context": "It was Ada.", "answer": ""},
    ],
}


def written(folder: Path, *rows: Any, name: str = "made.jsonl") -> Path:
    path = folder / name
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", GOOD)
def test_the_fields_say_of_which_kind_the_examples_are(kind, tmp_path):
    path = written(tmp_path, *GOOD[kind])
    found = data.read_examples(path)
    assert (found.kind, len(found)) == (kind, len(GOOD[kind]))
    assert list(found) == list(data.checked_examples(GOOD[kind]))
    assert list(data.read_examples(path, kind)) == list(found)


def test_numbers_are_labels_and_answers_have_places(tmp_path):
    found = data.read_examples(written(tmp_path, *GOOD["classification"]))
    assert [example["label"] for example in found] == ["pos", "0", ["a", "b"], []]
    found = data.read_examples(written(tmp_path, *GOOD["span"]))
    assert [(e["answer"], e["answer_start"]) for e in found] == [
        (["Ada"], 7),
        (["Ada", "x"], 7),
        ([], 0),
    ]


def test_tables(tmp_path):
    path = written(tmp_path, "label\ttext", "1\ta b", "", "0\tc", name="a.TSV")
    assert list(data.read_examples(path)) == [
        {"text": "a b", "label": "1"},
        {"text": "c", "label": "0"},
    ]
    path = written(tmp_path, "tokens\ttags", "a b\tO B-X", name="b.tsv")
    assert list(data.read_examples(path)) == [{"tokens": ["a", "b"], "tags": ["O", "B-X"]}]
    path = written(
        tmp_path, "question\tcontext\tanswer\tanswer_start", "q\tx y x\tx\t4", name="c.tsv"
    )
    assert data.read_examples(path)[0]["answer_start"] == 4


def test_a_byte_order_mark_and_other_line_ends(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a", "label": 1}\r\n\r\n{"text": "b", "label": 2}')
    assert [example["text"] for example in data.read_examples(path)] == ["a", "b"]


FIRST = {
    "classification": {"text": "a", "label": "b"},
    "token_classification": {"tokens": ["a"], "tags": ["O"]},
    "span": {"question": "q", "context": "a b", "answer": "b"},
}
WRONG: list[tuple[str, Any, str]] = [
    ("classification", '{"text": "a", "label": }', "is not JSON: Expecting value at column 24"),
    ("classification", "[" * 100_000, "is not JSON: "),
    ("classification", "[1, 2]", "must be an object such as"),
    ("classification", {"text": "a"}, "has no 'label'"),
    ("classification", {"text": 3, "label": 1}, "text must be a text, not 3"),
    ("classification", {"text": " ", "label": 1}, "text is empty"),
    ("classification", {"text": "a", "label": 0.5}, "label must be a text or a whole number, not"),
    ("classification", {"text": "a", "label": True}, "label must be a text or a whole number, not"),
    (
        "classification",
        {"text": "a", "label": ["x", None]},
        "label must be a text or a whole",
    ),
    ("classification", '{"text": "\\ud800", "label": 1}', "text has half of a surrogate pair"),
    ("token_classification", {"tokens": ["a", "b"], "tags": ["O"]}, "has 2 tokens and 1 tags"),
    ("token_classification", {"tokens": [], "tags": []}, "tokens must be a list of words, not []"),
    (
        "token_classification",
        {"tokens": "a b", "tags": []},
        "tokens must be a list of words, no",
    ),
    ("token_classification", {"tokens": ["a", ""], "tags": ["O", "O"]}, "tokens[1] must be a te"),
    ("token_classification", {"tokens": ["a"]}, "has no 'tags'"),
    (
        "span",
        {"question": "q", "context": "a b", "answer": "c"},
        "the answer 'c' is not in the con",
    ),
    (
        "span",
        {"question": "q", "context": "a b", "answer": "b", "answer_start": 1},
        "the answer 'b' is not at character 1 of the context, where ' ' is",
    ),
    (
        "span",
        {"question": "q", "context": "a b", "answer": "b", "answer_start": -1},
        "answer_start must be a whole number, not -1",
    ),
    ("span", {"question": "q", "context": "a b", "answer": 3}, "answer must be a text, not 3"),
    ("span", {"question": "", "context": "a b", "answer": "b"}, "question is empty"),
    ("span", {"question": "q", "context": "a b"}, "has no 'answer'"),
]


@pytest.mark.parametrize(("kind", "row", "message"), WRONG, ids=[w[2][:40] for w in WRONG])
def test_the_file_and_the_line_are_named(kind, row, message, tmp_path):
    path = written(tmp_path, FIRST[kind], "", row)
    expected = f"^{re.escape(f'{path}, line 3')}.*{re.escape(message)}"
    with pytest.raises(UserError, match=expected) as caught:
        data.read_examples(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(path))


def test_other_mistakes(tmp_path):
    with pytest.raises(UserError, match=r"there is no file called '.*absent'"):
        data.read_examples(tmp_path / "absent")
    with pytest.raises(UserError, match=r"cannot read .*: it is a folder"):
        data.read_examples(tmp_path)
    empty = written(tmp_path, "")
    with pytest.raises(UserError, match=r"made\.jsonl has no examples"):
        data.read_examples(empty)
    path = tmp_path / "latin.jsonl"
    path.write_bytes(b'{"text": "a", "label": 1}\n{"text": "\xe4", "label": 1}\n')
    with pytest.raises(UserError, match=r"line 2 is not UTF-8 text: its byte 10 \(0xe4\)"):
        data.read_examples(path)
    path = written(tmp_path, {"txt": "a", "label": 1})
    with pytest.raises(UserError, match=r"line 1 must have .* has txt, label \(did you mean text"):
        data.read_examples(path)
    with pytest.raises(UserError, match=r"of kind 'spam' \(did you mean span"):
        data.read_examples(path, "spam")
    path = written(tmp_path, "text\tlabel", "a\t1\t2", name="x.tsv")
    with pytest.raises(UserError, match="line 2 has 3 columns, and line 1 names 2"):
        data.read_examples(path)
    path = written(tmp_path, "a\t1", "b\t0", name="y.tsv")
    with pytest.raises(UserError, match="line 1, which names the columns, must have text and lab"):
        data.read_examples(path)
    with pytest.raises(UserError, match="there are no examples"):
        data.checked_examples([])
    with pytest.raises(UserError, match="example 1 must be a dict, not str"):
        data.checked_examples([FIRST["span"], "x"])  # type: ignore[list-item]
