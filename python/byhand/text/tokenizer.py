"""The interface of tokenizers, and functions that find and restore one by its kind."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from byhand import registry
from byhand.errors import UserError


@runtime_checkable
class Tokenizer(Protocol):
    """Turns text into token ids and back. The module of each kind exports its class under the name
    `Tokenizer` too: `text/character.py` is the kind "character".

    Attributes:
        kind: the name of its module.
        start: the prompt used when none is given: a newline, if the vocabulary has one. It encodes
            to at least one id.
    """

    kind: str
    start: str

    def encode(self, text: str) -> npt.NDArray[np.int64]:
        """The ids of `text`: int64 of shape (n,). UserError if some of it has no id."""
        ...

    def encode_blocks(
        self, blocks: Iterable[str], characters: int
    ) -> npt.NDArray[np.unsignedinteger]:
        """The ids of a long text in the smallest unsigned dtype that holds the vocabulary (n,).

        Args:
            blocks: the text in consecutive pieces, which need not be in memory together.
            characters: how many characters they have in all.

        UserError if some of the text has no id.
        """
        return self.encode("".join(blocks)).astype(id_dtype(len(self)))

    def decode(self, ids: npt.ArrayLike) -> str:
        """The text of `ids`, any sequence of integers. UserError on an id out of range."""
        ...

    def __len__(self) -> int:
        """The size of the vocabulary: ids are 0 .. len - 1."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """JSON data with at least "kind"; `from_dict` reads it back."""
        ...

    @classmethod
    def from_text(cls, text: str, vocabulary_size: int | None = None) -> Tokenizer:
        """A tokenizer made for `text`, with a vocabulary of this size (default: the kind's own).
        UserError if the text or the size does not allow it.
        """
        ...

    @classmethod
    def from_blocks(cls, blocks: Iterable[str], vocabulary_size: int | None = None) -> Tokenizer:
        """`from_text` for a long text in consecutive pieces."""
        return cls.from_text("".join(blocks), vocabulary_size)

    @classmethod
    def from_dict(cls, data: object) -> Tokenizer:
        """The tokenizer that `to_dict` described. UserError if `data` is anything else."""
        ...

    def sha256(self) -> str:
        """A fingerprint: equal for two tokenizers if they give the same ids for every text."""
        return hashlib.sha256(json.dumps(self.to_dict()).encode("ascii")).hexdigest()


def id_dtype(vocabulary_size: int) -> np.dtype[Any]:
    """The smallest unsigned dtype that holds the ids 0 .. vocabulary_size - 1."""
    return np.min_scalar_type(max(vocabulary_size - 1, 0))


def checked_ids(ids: npt.ArrayLike, vocabulary_size: int) -> npt.NDArray[np.int64]:
    """Token ids to decode, (n,). UserError if they are no sequence of ids of the vocabulary."""
    try:
        array = np.atleast_1d(np.asarray(ids))
    except ValueError:  # sequences of different lengths
        raise UserError("decode takes one sequence of ids, not several") from None
    if array.dtype == object:
        raise UserError(f"decode takes a sequence of ids of the vocabulary, not {ids!r:.60}")
    if array.ndim != 1:
        raise UserError(f"decode takes one sequence of ids, not an array of {array.ndim} axes")
    if array.size == 0:
        return np.zeros(0, np.int64)
    if not np.issubdtype(array.dtype, np.integer):
        raise UserError(f"token ids are whole numbers, not {array.dtype}")
    outside = (array < 0) | (array >= vocabulary_size)
    if outside.any():
        position = int(outside.argmax())
        raise UserError(
            f"token id {array[position]} at position {position} is outside the vocabulary "
            f"0..{vocabulary_size - 1}"
        )
    return np.ascontiguousarray(array, np.int64)


def tokenizer_of(data: object) -> Tokenizer:
    """The tokenizer of any kind that `to_dict` described. UserError if there is no such kind or
    the description is wrong.
    """
    if not isinstance(data, dict) or "kind" not in data:
        raise UserError("the tokenizer's description does not say of which kind it is")
    found: Tokenizer = registry.find("text", data["kind"]).Tokenizer.from_dict(data)
    return found


_SHORT = {"char": "character"}


def kind_named(name: str) -> str:
    """The kind of tokenizer in a name such as "char" (character) or "bpe:4096" (bpe)."""
    kind = name.partition(":")[0]
    return _SHORT.get(kind, kind)


def size_named(name: str) -> int | None:
    """The size of the vocabulary in a name such as "bpe:4096"; None if it has none. UserError if it
    is not a positive whole number.
    """
    _, colon, size = name.partition(":")
    if len(size) > 18:
        raise UserError(f"no text has a vocabulary of {size:.60} tokens")
    if colon and (not size.isdecimal() or int(size) < 1):
        raise UserError(f"the vocabulary of a tokenizer has at least 1 token, not {size!r}")
    return int(size) if colon else None


def make_tokenizer(name: str, text: str | Iterable[str]) -> Tokenizer:
    """A tokenizer for a text, or the tokenizer in a file.

    Args:
        name: a kind with or without the size of the vocabulary, such as "char", "bpe" or
            "bpe:4096", or the path of a file or folder that `byhand.text.load` reads.
        text: a str, or its consecutive pieces. A tokenizer from a file does not read it.

    UserError if there is no such kind or file, or the size is wrong.
    """
    if not isinstance(name, str):
        raise UserError(f"a tokenizer is named by a str such as 'bpe:4096', not {name!r:.60}")
    if not isinstance(text, Iterable):
        given = type(text).__name__
        raise UserError(f"a text must be a str, or its pieces as in source.blocks(), not {given}")
    kind = kind_named(name)
    if kind not in registry.kinds("text"):
        return _from_file(name)
    size = size_named(name)
    blocks = [text] if isinstance(text, str) else text
    made: Tokenizer = registry.find("text", kind).Tokenizer.from_blocks(blocks, size)
    return made


def _from_file(name: str) -> Tokenizer:
    from byhand.text.load import load

    path = Path(name)
    if not path.exists() and not path.suffix and path.name == name:
        registry.find("text", kind_named(name))  # its error lists the kinds
    return load(path)


def plain_ids(tokenizer: Tokenizer, text: str) -> npt.NDArray[np.int64]:
    """The ids of a text as a language model learns from them: without the special tokens that some
    tokenizers put around a text. int64 of shape (n,).
    """
    return tokenizer.encode_blocks([text], len(text)).astype(np.int64)
