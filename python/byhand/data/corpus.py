"""The texts to train on: a file, the Python documentation, or Tiny Shakespeare."""

from __future__ import annotations

import codecs
import hashlib
import io
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from byhand.data.download import Download
from byhand.errors import UserError

SHAKESPEARE = Download(
    title="Tiny Shakespeare",
    url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    size=1_115_394,
    filename="tinyshakespeare.txt",
)

_BLOCK = 1 << 16  # bytes, or characters of a str


class TextSource:
    """A text that is read in blocks, as often as needed, and never whole.

    Attributes:
        name: what messages call it.
        edition: for a text that comes with a program, the program and its version; else "".
        characters: how many it has.
        sha256: of the text as UTF-8.
    """

    def __init__(self, name: str, source: str | bytes | Path, edition: str = "") -> None:
        """`source`: the text, or UTF-8 in memory or in a file, of which line ends become newlines
        and a byte order mark at the start is dropped. It is read once here.

        UserError if it is empty, not UTF-8 or has a byte 0; OSError if the file cannot be read.
        """
        self.name = name
        self.edition = edition
        self._source = source
        self.characters, self.sha256 = 0, ""
        # `blocks` sets sha256 at the end.
        self.characters = sum(map(len, self.blocks()))
        if not self.characters:
            raise UserError(f"the corpus {name} is empty")

    @classmethod
    def of(cls, text: str | TextSource) -> TextSource:
        """`text` itself, or a source for a str."""
        return text if isinstance(text, TextSource) else cls("the text", text)

    def blocks(self) -> Iterator[str]:
        """The text in consecutive pieces of a few ten thousand characters. UserError if it is not
        what it was when it was read first.
        """
        digest = hashlib.sha256()
        for block in self._read():
            digest.update(block.encode())
            yield block
        if self.sha256 not in ("", digest.hexdigest()):
            raise UserError(f"{self.name} changed while it was being read")
        self.sha256 = digest.hexdigest()

    def _read(self) -> Iterator[str]:
        source = self._source
        if isinstance(source, str):
            yield from (source[i : i + _BLOCK] for i in range(0, len(source), _BLOCK))
            return
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
            yield from _decoded(file, self.name)


def _decoded(file: BinaryIO, name: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    place = 0  # how many bytes were read before this block
    data = None
    while data != b"":
        data = file.read(_BLOCK)
        begun = len(decoder.getstate()[0])  # bytes of a character that the last block began
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise _not_text(
                name,
                place - begun + error.start,
                f"(0x{error.object[error.start]:02x}) does not fit",
                data,
            ) from None
        if b"\0" in data:
            raise _not_text(name, place + data.index(b"\0"), "is 0, which no text has", data)
        if not place:
            text = text.removeprefix("\ufeff")
        place += len(data)
        yield newlines.decode(text, final=not data)


def _not_text(name: str, place: int, wrong: str, data: bytes) -> UserError:
    """The error of the byte at `place`, in the block `data` of a file."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        why = " (it begins with the byte order mark of UTF-16)"
    elif encoding := _wide_encoding(data):
        why = f" (it seems to be {encoding})"
    else:
        why = " (it seems not to be a text)" if b"\0" in data else ""
    return UserError(
        f"{name} is not UTF-8 text: byte {place} {wrong}{why}; convert the file to UTF-8 first"
    )


def _wide_encoding(data: bytes) -> str | None:
    """UTF-16 or UTF-32 without a byte order mark, if most characters' upper bytes are 0."""
    zeros = [data[i::4].count(0) * 8 > len(data) for i in range(4)]
    known: dict[tuple[bool, ...], str] = {
        (False, True, False, True): "UTF-16-LE",
        (True, False, True, False): "UTF-16-BE",
        (False, True, True, True): "UTF-32-LE",
        (True, True, True, False): "UTF-32-BE",
    }
    return known.get(tuple(zeros))


def corpus_names() -> tuple[str, ...]:
    """The corpora that have a name; anything else is a path."""
    return ("python-docs", "shakespeare")


def absolute_name(name_or_path: str | os.PathLike[str]) -> str:
    """The name of a corpus, or a path that is the same in every working folder."""
    named = isinstance(name_or_path, str) and name_or_path in corpus_names()
    return str(name_or_path) if named else str(Path(name_or_path).resolve())


def open_corpus(name_or_path: str | os.PathLike[str]) -> TextSource:
    """A corpus, to be read in blocks.

    `python-docs` is the reference text that comes with every CPython for `help()`: no download.
    `shakespeare` is Tiny Shakespeare, downloaded once into the user's cache and verified.
    Anything else is the path of a UTF-8 file (`./shakespeare` for a file of that name); line ends
    become newlines and a byte order mark at the start is dropped.
    UserError if there is no such file, or it is empty, not UTF-8 or has a byte 0.
    """
    if not isinstance(name_or_path, (str, os.PathLike)):
        raise UserError(f"a corpus is a name or a path, not {name_or_path!r}")
    if name_or_path == "python-docs":
        edition = f"Python {platform.python_version()}"
        return TextSource("python-docs", _python_docs(), edition)
    if name_or_path == "shakespeare":
        path = SHAKESPEARE.fetch(
            otherwise="use the corpus python-docs, which needs no network, or any UTF-8 text file"
        )
    else:
        path = Path(name_or_path)
    return _open(path, os.fspath(name_or_path))


def load_corpus(name_or_path: str | os.PathLike[str]) -> str:
    """The whole text of a corpus; see `open_corpus`."""
    return "".join(open_corpus(name_or_path).blocks())


def _python_docs() -> str:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise UserError(
            "this Python was installed without pydoc_data, so there is no corpus python-docs: "
            "name a UTF-8 text file or shakespeare instead"
        ) from None
    return "\n".join(topics[key] for key in sorted(topics))


def _open(path: Path, name: str) -> TextSource:
    try:
        # A pipe can be read only once, so its content is kept.
        in_memory = path.exists() and not path.is_file() and not path.is_dir()
        return TextSource(name, path.read_bytes() if in_memory else path)
    except FileNotFoundError:
        known = " and ".join(corpus_names())
        raise UserError(
            f"there is no corpus or file called {name!r} (known by name: {known})"
        ) from None
    except OSError as error:
        if path.is_dir():  # Windows calls it a lack of permission
            raise UserError(f"{name} is a folder: a corpus is one UTF-8 text file") from None
        raise UserError(f"cannot read the corpus {name}: {error.strerror}") from None
