"""Corpora: what they contain, and the errors for files that cannot be used."""

import hashlib
import os
import platform
import pydoc_data.topics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from byhand.data import TextSource, absolute_name, corpus, load_corpus, open_corpus
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
        (b"\xef\xbb\xbfab\xff", r"byte 5 \(0xff\)"),
        ("a text".encode("utf-16"), "byte order mark of UTF-16"),
        (
            "plain text".encode("utf-16-le"),
            r"byte 1 is 0, which no text .* to be UTF-16-LE\); conv",
        ),
        (
            "plain text".encode("utf-16-be"),
            r"byte 0 is 0, which no text .* to be UTF-16-BE\); conv",
        ),
        (
            "mostly plain, é".encode("utf-16-le"),
            r"\(0xe9\) does not fit \(it seems to be UTF-16-LE",
        ),
        ("plain text".encode("utf-32-le"), r"byte 1 is 0.*UTF-32-LE"),
        ("plain text".encode("utf-32-be"), r"byte 0 is 0.*UTF-32-BE"),
        (
            b"\xef\xbb\xbfa text\0",
            r"byte 9 is 0, which no text has \(it seems not to be a text\); ",
        ),
        (b"x" * 200_000 + b"\0", r"byte 200000 is 0"),
        (bytes(100), r"byte 0 is 0.*\(it seems not to be a text\)"),
        (b"x" * 200_000 + b"\xe9t\xe9", r"byte 200000 \(0xe9\)"),
        (b"x" * 65_535 + "é".encode() + b"\x80", r"byte 65537 \(0x80\)"),
        (b"x" * 65_535 + b"\xe2\x82", r"byte 65535 \(0xe2\)"),  # it ends within a character
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
    with pytest.raises(UserError, match="a corpus is a name or a path, not None"):
        load_corpus(None)  # type: ignore[arg-type]


def test_the_names_are_those_that_load():
    assert corpus.corpus_names() == ("python-docs", "shakespeare")


LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXTS = st.text(LETTERS | st.sampled_from("\r\n\ufeffé€😀"))


@given(TEXTS.filter(bool), st.integers(1, 9), st.booleans())
def test_blocks_are_the_text(text: str, size: int, marked: bool):
    """Whatever a block's end cuts: a character, a line end, a byte order mark."""
    data = b"\xef\xbb\xbf" * marked + text.encode()
    expected = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "_BLOCK", max(size, 3))
        if not expected:
            with pytest.raises(UserError, match="is empty"):
                TextSource("it", data)
            return
        source = TextSource("it", data)
        assert "".join(source.blocks()) == "".join(source.blocks()) == expected
        assert source.characters == len(expected)
        assert source.sha256 == hashlib.sha256(expected.encode()).hexdigest()
        patch.setattr(corpus, "_BLOCK", size)
        assert "".join(TextSource("it", text).blocks()) == text, "a str is not changed"


@given(st.binary(min_size=1, max_size=40), st.integers(3, 9))
def test_the_first_byte_that_is_not_utf8_is_named(data: bytes, size: int):
    data = data.replace(b"\0", b"\1")  # a 0 has a sentence of its own
    try:
        data.decode("utf-8")
        return
    except UnicodeDecodeError as error:
        words = rf"byte {error.start} \(0x{data[error.start]:02x}\)"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "_BLOCK", size)
        with pytest.raises(UserError, match=words):
            TextSource("it", data)


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path):
    path = tmp_path / "text.txt"
    path.write_text("one")
    source = open_corpus(path)
    for text in ("two", "once", "on", ""):
        path.write_text(text)
        with pytest.raises(UserError, match=f"{path} changed while it was being read"):
            list(source.blocks())


def test_a_pipe_is_a_corpus():
    """As `byhand train <(zcat text.gz)` gives; a pipe can be read only once."""
    reading, writing = os.pipe()
    os.write(writing, "one\r\ntwo é".encode())
    os.close(writing)
    source = open_corpus(f"/dev/fd/{reading}")
    assert "".join(source.blocks()) == "".join(source.blocks()) == "one\ntwo é"
    os.close(reading)


def test_the_python_of_the_documentation_is_known(tmp_path: Path):
    assert open_corpus("python-docs").edition == f"Python {platform.python_version()}"
    (tmp_path / "text.txt").write_text("mine")
    assert open_corpus(tmp_path / "text.txt").edition == ""


def test_a_path_is_the_same_in_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert absolute_name("a/../text.txt") == str(tmp_path / "text.txt")
    assert absolute_name(Path("./python-docs")) == str(tmp_path / "python-docs")
    assert absolute_name("./python-docs") == str(tmp_path / "python-docs")
    assert absolute_name("python-docs") == "python-docs"
