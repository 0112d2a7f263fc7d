"""`byhand train --model bert` on a text and on examples, and `byhand eval` of what it wrote."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import byhand
from byhand.cli.main import main
from byhand.runs.checkpoint import read
from tests.tasks.test_text_tasks import BAD, GOOD, sentences

SIZES = (
    "--model bert --layers 1 --heads 2 --width 16 --intermediate-size 32 --context 40 --batch 8 "
    "--steps 12 --eval-every 6 --lr 3e-3 --eval-batches 3"
).split()


def rows_of(kind: str) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for words in sentences(80):
        if kind == "classification":
            good = bool(rng.integers(2))
            text = " ".join([*words, rng.choice(GOOD if good else BAD)])
            rows.append({"text": text, "label": "good" if good else "bad"})
        elif kind == "token_classification":
            tags = ["O", "B-X", "O", "O", "B-X", "O", "B-PLACE"]
            rows.append({"tokens": list(map(str, words)), "tags": tags})
        else:
            question = f"where is the {words[1]}"
            rows.append(
                {"question": question, "context": " ".join(words), "answer": str(words[-1])}
            )
    return rows


def written(folder: Path, kind: str) -> Path:
    if kind == "masked_lm":
        path = folder / "text.txt"
        path.write_text("\n".join(" ".join(words) for words in sentences(300)), encoding="utf-8")
        return path
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows_of(kind))), encoding="utf-8")
    return path


METRICS = {
    "masked_lm": ("accuracy",),
    "classification": ("accuracy", "f1"),
    "token_classification": ("accuracy", "f1"),
    "span": ("exact_match", "f1"),
}


@pytest.mark.parametrize("kind", METRICS)
def test_it_trains_resumes_loads_and_evaluates(kind, tmp_path, capsys):
    path = str(written(tmp_path, kind))
    whole, apart = str(tmp_path / "whole"), str(tmp_path / "apart")
    assert main(["train", path, "--out", whole, *SIZES]) == 0
    out = capsys.readouterr().out
    for name in METRICS[kind]:
        assert re.search(rf"step 12 of 12: .*validation {name} \d\.\d\d\d\d", out), out
    assert "generate text" not in out
    assert f"byhand eval {whole}" in out
    if kind == "masked_lm":
        assert "; it was " in out
    sample = (Path(whole) / "samples" / "step_000012.txt").read_text(encoding="utf-8")
    assert {"masked_lm": "[", "token_classification": "/"}.get(kind, " -> ") in sample
    steps = [flag if flag != "12" else "7" for flag in SIZES]
    constant = ["--schedule", "constant"]
    assert main(["train", path, "--out", apart, *steps, *constant]) == 0
    assert main(["train", "--resume", "--out", apart, "--steps", "12"]) == 0
    other = str(tmp_path / "other")
    assert main(["train", path, "--out", other, *SIZES, *constant]) == 0
    one, two = (read(Path(run) / "last.safetensors") for run in (apart, other))
    for name, tensor in one.tensors.items():
        assert tensor.tobytes() == two.tensors[name].tobytes(), name
    capsys.readouterr()
    assert main(["eval", whole]) == 0
    found = capsys.readouterr().out
    for name in ("loss", *METRICS[kind]):
        assert f"{name.replace('_', ' ')} " in found
    model = byhand.load(whole)
    assert isinstance(model, byhand.Bert)
    assert model.config.vocab_size == len(model.tokenizer)
    assert model.config.pad_token_id == model.tokenizer.pad_token_id
    if kind in ("classification", "token_classification"):
        labels = {
            "classification": ("bad", "good"),
            "token_classification": ("B-PLACE", "B-X", "O"),
        }
        assert model.config.labels == labels[kind]
        assert (
            main(["train", "--from", whole, "--out", str(tmp_path / "next"), "--steps", "3"]) == 0
        )


def test_a_table_and_several_labels(tmp_path, capsys):
    path = tmp_path / "rows.tsv"
    rows = [f"{row['label']}\t{row['text']}" for row in rows_of("classification")]
    path.write_text("\n".join(["label\ttext", *rows]), encoding="utf-8")
    assert main(["train", str(path), "--out", str(tmp_path / "a"), *SIZES]) == 0
    path = tmp_path / "several.jsonl"
    made = [{**row, "label": [row["label"]] if i % 3 else row["label"]} for i, row in
            enumerate(rows_of("classification"))]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, made)), encoding="utf-8")
    assert main(["train", str(path), "--out", str(tmp_path / "b"), *SIZES]) == 0
    assert "validation f1" in capsys.readouterr().out


def failed(capsys: Any, *arguments: str | Path) -> str:
    assert main(["train", *map(str, arguments)]) == 2
    error: str = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


def test_mistakes_are_one_sentence(tmp_path, capsys):
    text, rows = (written(tmp_path, kind) for kind in ("masked_lm", "classification"))
    out = ["--out", tmp_path / "run"]
    error = failed(capsys, text, *out, *SIZES, "--tokenizer", "char")
    assert "this model needs a tokenizer with a token [CLS], such as wordpiece" in error
    error = failed(capsys, text, *out, *SIZES, "--heads", "3")
    assert "--width must be a multiple of --heads, got 16 and 3" in error
    error = failed(capsys, text, *out, *SIZES, "--context", "9000")
    assert "take a longer text or a smaller --context" in error
    one = tmp_path / "one.jsonl"
    one.write_text('{"text": "a b", "label": "x"}\n' * 20, encoding="utf-8")
    assert "one.jsonl has one label only, 'x'" in failed(capsys, one, *out, *SIZES)
    one.write_text('{"text": "a b", "label": "x"}\n{"text": "a"}\n', encoding="utf-8")
    assert "one.jsonl, line 2 has no 'label'" in failed(capsys, one, *out, *SIZES)
    one.write_text('{"texts": "a b", "label": "x"}\n', encoding="utf-8")
    assert "line 1 must have text and label" in failed(capsys, one, *out, *SIZES)
    assert not (tmp_path / "run").exists()
    assert main(["train", str(text), *map(str, out), *SIZES]) == 0
    capsys.readouterr()
    error = failed(capsys, rows, "--from", tmp_path / "run", "--out", tmp_path / "b")
    assert "is for the task classification, and the model of --from has the task masked_lm" in error
    assert main(["generate", str(tmp_path / "run")]) == 2
    assert "\n" not in capsys.readouterr().err.rstrip()
    assert main(["eval", str(tmp_path / "run"), "--corpus", str(text)]) == 2
    assert "--corpus is for models that predict the next token" in capsys.readouterr().err


def test_the_help_shows_the_flags_of_a_bert(capsys):
    assert main(["train", "--model", "bert", "--help"]) == 0
    shown = capsys.readouterr().out
    for flag in ("--hidden-act", "--attention-dropout", "--intermediate-size", "base"):
        assert flag in shown
    for flag in ("--vocab-size", "--num-labels", "--head ", "--pad-token-id"):
        assert flag not in shown
