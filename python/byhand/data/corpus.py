"""The texts to train on: a file, the Python documentation, or Tiny Shakespeare."""

from __future__ import annotations

import os
from pathlib import Path

from byhand.data.download import Download
from byhand.errors import UserError

SHAKESPEARE = Download(
    title="Tiny Shakespeare",
    url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    size=1_115_394,
    filename="tinyshakespeare.txt",
)


def corpus_names() -> tuple[str, ...]:
    """The corpora that have a name; anything else is a path."""
    return ("python-docs", "shakespeare")


def load_corpus(name_or_path: str | os.PathLike[str]) -> str:
    """The text of a corpus.

    `python-docs` is the reference text that comes with every CPython for `help()`: no download.
    `shakespeare` is Tiny Shakespeare, downloaded once into the user's cache and verified.
    Anything else is the path of a UTF-8 file (`./shakespeare` for a file of that name); line ends
    become newlines and a byte order mark at the start is dropped.
    UserError if there is no such file, or it is empty or not UTF-8.
    """
    if name_or_path == "python-docs":
        return _python_docs()
    if name_or_path == "shakespeare":
        path = SHAKESPEARE.fetch(
            otherwise="use the corpus python-docs, which needs no network, or any UTF-8 text file"
        )
    else:
        path = Path(name_or_path)
    return _read(path, str(name_or_path))


def _python_docs() -> str:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise UserError(
            "this Python was installed without pydoc_data, so there is no corpus python-docs: "
            "name a UTF-8 text file or shakespeare instead"
        ) from None
    return "\n".join(topics[key] for key in sorted(topics))


def _read(path: Path, name: str) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        known = " and ".join(corpus_names())
        raise UserError(
            f"there is no corpus or file called {name!r} (known by name: {known})"
        ) from None
    except IsADirectoryError:
        raise UserError(f"{name} is a folder: a corpus is one UTF-8 text file") from None
    except OSError as error:
        raise UserError(f"cannot read the corpus {name}: {error.strerror}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name} is not UTF-8 text: byte {error.start} (0x{data[error.start]:02x}) "
            "does not fit; convert the file to UTF-8 first"
        ) from None
    if not text:
        raise UserError(f"the corpus {name} is empty")
    return text.replace("\r\n", "\n").replace("\r", "\n")
