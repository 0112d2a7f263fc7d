"""`byhand tokenizer`, and `byhand train --tokenizer`."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from byhand import text
from byhand.cli.main import main
from byhand.runs import Run
from byhand.runs.log import read_log
from byhand.text.samples import SAMPLES
from tests.text.made_files import END, gpt2_files, tiktoken_file
from tests.training import small


class Standard(io.TextIOWrapper):
    """A standard input with these bytes."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")


@pytest.fixture
def vocab(tmp_path: Path) -> Path:
    return gpt2_files(tmp_path)[0]


def tokenizer(
    capfdbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
    *arguments: object,
    given: bytes = b"",
    status: int = 0,
) -> str:
    """What the command prints: to stdout, or with another status than 0 to stderr."""
    monkeypatch.setattr("sys.stdin", Standard(given))
    assert main(["tokenizer", *map(str, arguments)]) == status
    out, err = capfdbinary.readouterr()
    shown, other = (err, out) if status else (out, err)
    assert other == b""
    return shown.decode("utf-8")


@pytest.fixture
def command(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(*arguments: object, **options: Any) -> str:
        return tokenizer(capfdbinary, monkeypatch, *arguments, **options)

    return run


def test_ids_of_the_standard_input_and_back(command: Any, vocab: Path):
    given = f"hello world\r\nhéllo {END}\n".encode()
    ids = command("encode", vocab, given=given)
    assert ids.startswith("259 265 ")
    assert ids.endswith("\n")
    assert command("decode", vocab, given=ids.encode()).encode() == given
    listed = json.dumps({"ids": [int(id) for id in ids.split()]})
    assert command("decode", vocab, given=listed.encode()).encode() == given
    assert json.loads(command("decode", vocab, "--json", given=b"[259, 265]")) == {
        "text": "hello world"
    }


def test_files_tokens_and_json(command: Any, vocab: Path, tmp_path: Path):
    path = tmp_path / "a text.txt"
    path.write_text("hello world")
    lines = command("encode", vocab, path, "--tokens").splitlines()
    assert lines == ['259\t0\t5\t"hello"', '265\t5\t11\t"Ġworld"']
    found = json.loads(command("encode", vocab, path, "--json"))
    assert found == {
        "ids": [259, 265],
        "tokens": ["hello", "Ġworld"],
        "offsets": [[0, 5], [5, 11]],
    }


def test_special_tokens_are_text_unless_allowed(command: Any, vocab: Path):
    given = END.encode()
    assert len(command("encode", vocab, given=given).split()) > 5
    assert command("encode", vocab, "--allow-special", END, given=given).split() == ["268"]
    assert command("encode", vocab, "--allow-special", "all", given=given).split() == ["268"]
    assert command("decode", vocab, given=b"268 259") == "hello"
    assert command("decode", vocab, "--special-tokens", given=b"268 259") == END + "hello"
    message = command("encode", vocab, "--allow-special", "<|end|>", given=given, status=2)
    assert "there is no special token '<|end|>'" in message


def test_tokens_are_coloured_on_a_terminal(
    command: Any, vocab: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    shown = command("encode", vocab, given=b"hello world\n")
    assert shown.count("\x1b[") >= 4
    assert "hello" in shown
    assert "\u23ce" in shown
    assert shown.endswith("259 265 198\n") or "259 265" in shown.splitlines()[-1]


def test_eval_of_a_text_and_of_languages(command: Any, vocab: Path, tmp_path: Path):
    path = tmp_path / "text.txt"
    path.write_text("hello world hello")
    found = json.loads(command("eval", vocab, path, "--json"))
    measured = found["text"]
    assert measured["bytes"] == measured["characters"] == 17
    assert measured["words"] == 3
    assert measured["tokens"] == 4  # the second "hello" has its space alone
    assert measured["bytes_per_token"] == pytest.approx(17 / 4)
    assert measured["tokens_per_word"] == pytest.approx(4 / 3)
    assert measured["unknown_rate"] == 0
    assert measured["vocabulary_used"] == pytest.approx(3 / 269)
    assert found["longest"][0] == [265, " world"]
    assert list(found["languages"]) == list(SAMPLES)
    assert all(row["round_trip"] for row in found["languages"].values())
    shown = command("eval", vocab, path)
    assert "4.250 bytes per token" in shown
    assert "1.333 tokens per word" in shown
    assert len(shown.splitlines()) == 7 + len(SAMPLES)
    assert command("eval", vocab, "-", given=b"hello").splitlines()[1].startswith("text: 5 bytes")


def test_eval_says_what_a_vocabulary_lacks(command: Any, tmp_path: Path):
    text.save(text.CharacterTokenizer("abc "), tmp_path)
    rows = json.loads(command("eval", tmp_path, "--json"))["languages"]
    assert rows["Chinese"] == {"refused": True}
    assert "Chinese   has characters that are not in the vocabulary" in command("eval", tmp_path)


def test_convert_writes_what_the_name_says(command: Any, vocab: Path, tmp_path: Path):
    out = tmp_path / "new" / "made.tiktoken"
    shown = command("convert", vocab, out)
    assert shown.splitlines() == [str(out), str(out) + ".json"]
    assert text.load(out).encode("hello world").tolist() == [259, 265]
    message = command("convert", vocab, tmp_path / "x.model", status=2)
    assert "of SentencePiece" in message
    assert not (tmp_path / "x.model").exists()


def test_a_pattern_for_ranks(command: Any, tmp_path: Path):
    path = tiktoken_file(tmp_path)
    path.with_name(path.name + ".json").unlink()
    assert "--pattern" in command("encode", path, status=2)
    assert command("encode", path, "--pattern", "gpt4", given=b"hello") == "259\n"


@pytest.mark.parametrize("kind", ["bpe:270", "unigram:40", "wordpiece:60", "word", "char"])
def test_train_writes_a_tokenizer(kind: str, command: Any, tmp_path: Path):
    path, out = tmp_path / "text.txt", tmp_path / "made" / "tokenizer.json"
    path.write_text("the cat sat on the mat. the rat sat on the cat.\n" * 30)
    shown = command("train", path, "--tokenizer", kind, "--out", out)
    assert "tokens, from 1,440 characters" in shown
    made = text.load(out)
    assert made.kind == {"char": "character"}.get(kind, kind.partition(":")[0])
    if ":" in kind:
        assert len(made) <= int(kind.partition(":")[2])
    out.unlink()
    facts = json.loads(
        command("train", "-", "--tokenizer", kind, "--out", out, "--json", given=path.read_bytes())
    )
    assert facts["size"] == len(made)
    assert facts["sha256"] == made.sha256()
    assert facts["files"] == [str(out)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("encode",), "the following arguments are required: TOKENIZER"),
        (("encode", "missing.json"), "there is no tokenizer at missing.json"),
        (("encodes", "x"), "there is no byhand tokenizer encodes (did you mean encode?)"),
        (("encode", "V", "--jsn"), "there is no flag --jsn (did you mean --json?)"),
        (("encode", "V", "missing.txt"), "cannot read missing.txt"),
        (("encode", "V", "V", "V"), "unexpected argument"),
        (("encode", "V", "--pattern", "gpt2"), "tiktoken's ranks only"),
        (("encode", ""), "must not be empty"),
        (("decode", "V", "T"), "id 0 is 'hello', not a whole number"),
        (("train",), "the following arguments are required: --out"),
        (("train", "T"), "the following arguments are required: --out"),
        (("train", "T", "--out", "x.bin"), "the name x.bin is of no format"),
        (("train", "T", "--out", "x.gguf"), "does not write them"),
        (("train", "missing.txt", "--out", "x.json"), "missing.txt"),
        (("train", "T", "--out", "x.json", "--tokenizer", "bpee:9"), "did you mean bpe?"),
        (("train", "T", "--out", "x.json", "--tokenizer", "bpe:x"), "at least 1 token, not 'x'"),
        (("train", "T", "--out", "x.json", "--tokenizer", "bpe:" + "9" * 5000), "no text has"),
        (("train", "T", "--out", "x.json", "--threads", "0"), "--threads"),
        (("train", "T", "--out", "x.json", "--pattern", "gpt"), "did you mean gpt4?"),
        (("train", "T", "--out", "x.json", "--pattern", "("), "does not compile"),
        (("train", "T", "--out", "T", "--tokenizer", "wordpiece:60"), "text.txt exists already"),
        (("train", "T", "--out", "V"), "exists already: name another file"),
        (("train", "T", "--out", "m/vocab.json", "--tokenizer", "char"), "as tokenizer.json only"),
        (("convert", "V", "V"), "exists already: name another file"),
        (("convert", "V", "T"), "is for WordPiece, not for BPE"),
        (("eval", "V", "E"), "is empty"),
        (("convert", "V"), "the following arguments are required: OUT"),
        (("convert", "V", "x.txt"), "is for WordPiece, not for BPE"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: tuple[str, ...],
    message: str,
    command: Any,
    vocab: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("hello world")
    (tmp_path / "empty.txt").write_text("")
    files = {"V": str(vocab), "T": "text.txt", "E": "empty.txt"}
    before = sorted(tmp_path.iterdir())
    shown = command(*(files.get(a, a) for a in arguments), status=2)
    assert message in shown
    assert len(shown.splitlines()) == 1
    assert shown.startswith("byhand: ")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("given", [b"1 2 x", b'{"id": 3}', b"99999", b"-1", b"9" * 30, b"9" * 9000])
def test_wrong_ids(command: Any, vocab: Path, given: bytes):
    message = command("decode", vocab, given=given, status=2)
    assert len(message.splitlines()) == 1
    assert len(message) < 150


def test_a_binary_text_names_the_byte(command: Any, vocab: Path):
    message = command("encode", vocab, given=b"abc\xff", status=2)
    assert "the standard input is not UTF-8 text: byte 3 does not fit" in message


def test_help_lists_the_actions(command: Any):
    shown = command()
    for action in ("train", "encode", "decode", "eval", "convert"):
        assert f"    {action} " in shown


# --- byhand train --tokenizer --------------------------------------------------------------------


def test_a_run_with_pieces_of_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path, run = tmp_path / "text.txt", tmp_path / "run"
    path.write_text(small.text())
    flags = ["--tokenizer", "bpe:280", "--steps", "4", *small.SIZES]
    assert main(["train", str(path), "--out", str(run), *flags]) == 0
    out = capsys.readouterr().out
    assert "losses in nats per token" in out
    assert " per character, " in out
    tokenizer = text.load(run)
    assert Run(run).read_config().tokenizer.kind == "bpe"  # type: ignore[union-attr]
    assert Run(run).read_config().tokenizer.sha256 == tokenizer.sha256()  # type: ignore[union-attr]
    (record, *_) = [r for r in read_log(run / "log.jsonl") if "validation_loss" in r]
    ids = tokenizer.encode_blocks([small.text()], len(small.text()))
    tokens_per_character = len(ids) / len(small.text())
    rate = record["validation_loss_per_character"] / record["validation_loss"]
    assert rate == pytest.approx(tokens_per_character, rel=0.3)
    assert record["validation_loss_per_byte"] == record["validation_loss_per_character"]
    assert main(["generate", str(run), "--prompt", "ab", "--max-new-tokens", "5"]) == 0
    assert main(["eval", str(run)]) == 0
    assert "in nats: " in capsys.readouterr().out


def test_a_run_with_the_tokenizer_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path, run = tmp_path / "text.txt", tmp_path / "run"
    path.write_text(small.text())
    vocab = gpt2_files(tmp_path)[0]
    flags = ["--tokenizer", str(vocab), "--steps", "2", *small.SIZES]
    assert main(["train", str(path), "--out", str(run), *flags]) == 0
    assert text.load(run).sha256() == text.load(vocab).sha256()
    capsys.readouterr()


def test_another_tokenizer_in_the_folder_of_a_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path, run = tmp_path / "text.txt", tmp_path / "run"
    path.write_text(small.text())
    flags = ["--tokenizer", "bpe:280", "--steps", "2", *small.SIZES]
    assert main(["train", str(path), "--out", str(run), *flags]) == 0
    data = json.loads((run / "tokenizer.json").read_text())
    data["model"]["merges"] = data["model"]["merges"][:-1]
    (run / "tokenizer.json").write_text(json.dumps(data))
    capsys.readouterr()
    assert main(["generate", str(run)]) == 2
    assert "tokenizer" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [("--resume",), ("--from", "R")])
def test_another_size_than_the_run_has_is_refused(
    flags: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path, run = tmp_path / "text.txt", tmp_path / "run"
    path.write_text(small.text())
    sizes = ["--tokenizer", "bpe:280", "--steps", "2", *small.SIZES]
    assert main(["train", str(path), "--out", str(run), *sizes]) == 0
    capsys.readouterr()
    given = [str(run) if flag == "R" else flag for flag in flags]
    out = str(run if flags == ("--resume",) else tmp_path / "other")
    assert main(["train", *given, "--tokenizer", "bpe:270", "--out", out]) == 2
    assert "has --tokenizer bpe:280, not bpe:270" in capsys.readouterr().err
    if flags == ("--resume",):
        assert main(["train", *given, "--tokenizer", "bpe:280", "--steps", "3", "--out", out]) == 0


def test_text_is_continued_as_the_tokenizer_joins_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path, run = tmp_path / "text.txt", tmp_path / "run"
    path.write_text("cat dog\n" * 400)
    flags = ["--tokenizer", "word", "--steps", "2", *small.SIZES]
    assert main(["train", str(path), "--out", str(run), *flags]) == 0
    capsys.readouterr()
    flags = ["--max-new-tokens", "20", "--seed", "1"]
    assert main(["generate", str(run), "--prompt", "cat dog", *flags]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("cat dog ")
    assert set(shown.split()) <= {"cat", "dog"}
    assert main(["generate", str(run), "--prompt", " "]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "the prompt ' ' has no tokens" in captured.err
