"""Corpora: what they contain, and the errors for files that cannot be used."""

import pydoc_data.topics
from pathlib import Path

import pytest

from byhand.data import corpus, load_corpus
from byhand.errors import UserError


def test_python_docs_needs_no_download_and_is_always_the_same():
    text = load_corpus("python-docs")
    topics = pydoc_data.topics.topics
    assert text == load_corpus("python-docs")
    assert len(text) == sum(map(len, topics.values())) + len(topics) - 1
    assert text.startswith(topics[min(topics)])
    assert text.endswith(topics[max(topics)])


def test_python_docs_missing_from_an_installation(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "pydoc_data.topics", None)
    with pytest.raises(UserError, match=r"pydoc_data.*file or shakespeare"):
        load_corpus("python-docs")


def test_a_file_is_read_as_utf_8(tmp_path: Path):
    path = tmp_path / "text.txt"
    path.write_bytes("héllo 😀\n".encode())
    assert load_corpus(path) == load_corpus(str(path)) == "héllo 😀\n"


def test_a_byte_order_mark_and_carriage_returns_are_dropped(tmp_path: Path):
    path = tmp_path / "windows.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    assert load_corpus(path) == "one\ntwo\nthree\n"


def test_a_file_may_have_the_name_of_a_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("python-docs").write_text("mine")
    assert load_corpus("./python-docs") == "mine"
    assert load_corpus("python-docs") != "mine"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        ("olé".encode("latin-1"), r"not UTF-8 text: byte 2 \(0xe9\)"),
        (b"ab\x80cd", r"byte 2 \(0x80\)"),
        ("text".encode("utf-16"), r"not UTF-8 text: byte 0"),
        (b"\xed\xa0\x80", "not UTF-8"),  # a lone surrogate
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, content: bytes, words: str):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words) as error:
        load_corpus(path)
    assert str(path) in str(error.value)


def test_an_unknown_corpus_lists_the_known_ones(tmp_path: Path):
    with pytest.raises(UserError, match=r"'nowhere.txt'.*python-docs and shakespeare"):
        load_corpus("nowhere.txt")
    with pytest.raises(UserError, match="is a folder"):
        load_corpus(tmp_path)


def test_the_names_are_those_that_load():
    assert corpus.corpus_names() == ("python-docs", "shakespeare")
