"""One token per character."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from byhand.errors import UserError
from byhand.text import tokenizer


def code_points(text: str) -> npt.NDArray[np.uint32]:
    """The Unicode code points of `text`, shape (len(text),). UserError if it is not a str."""
    if not isinstance(text, str):
        raise UserError(f"a text must be a str, not {type(text).__name__}")
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


class CharacterTokenizer(tokenizer.Tokenizer):
    """Numbers the distinct characters of a text 0, 1, 2, ... in the order of their code points.

    A character is a Unicode code point. `decode(encode(text)) == text` for every text made of
    characters in the vocabulary; any other character is an error that names it.
    """

    kind = "character"

    def __init__(self, characters: Iterable[str]) -> None:
        """`characters`: a string or list of distinct single characters, in any order."""
        listed = list(characters)
        for character in listed:
            if not isinstance(character, str) or len(character) != 1:
                raise UserError(f"a vocabulary holds single characters, not {character!r}")
            if "\ud800" <= character <= "\udfff":
                # No UTF-8 file can hold a lone surrogate, and JSON would join two of them.
                raise UserError(f"{describe(character)} is half of a surrogate pair")
        if not listed:
            raise UserError("a vocabulary needs at least one character: the text is empty")
        if len(set(listed)) != len(listed):
            twice = next(c for c in listed if listed.count(c) > 1)
            raise UserError(f"the vocabulary holds {describe(twice)} twice")
        self.characters = "".join(sorted(listed))
        self._codes = code_points(self.characters)
        self.start = "\n" if "\n" in listed else self.characters[0]

    @classmethod
    def from_text(cls, text: str, vocabulary_size: int | None = None) -> CharacterTokenizer:
        """The tokenizer whose vocabulary is exactly the characters of `text`; no other size is
        possible.
        """
        return cls.from_blocks([text], vocabulary_size)

    @classmethod
    def from_blocks(
        cls, blocks: Iterable[str], vocabulary_size: int | None = None
    ) -> CharacterTokenizer:
        """See `Tokenizer`."""
        found = np.zeros(sys.maxunicode + 1, bool)
        for block in blocks:
            found[code_points(block)] = True
        made = cls(map(chr, np.flatnonzero(found)))
        if vocabulary_size not in (None, len(made)):
            raise UserError(
                f"the text has {len(made)} different characters, so a character tokenizer cannot "
                f"have a vocabulary of {vocabulary_size}: leave the size out"
            )
        return made

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The characters, each at the index that is its id."""
        return tuple(self.characters)

    @property
    def vocabulary_size(self) -> int:
        return len(self.characters)

    def __len__(self) -> int:
        return len(self.characters)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CharacterTokenizer) and other.characters == self.characters

    def __hash__(self) -> int:
        return hash(self.characters)

    def __repr__(self) -> str:
        return f"CharacterTokenizer({self.characters!r})"

    def encode(self, text: str) -> npt.NDArray[np.int64]:
        """The ids of `text`, int64 of shape (len(text),). UserError on an unknown character."""
        return self._encode(text, 0)

    def encode_blocks(
        self, blocks: Iterable[str], characters: int
    ) -> npt.NDArray[np.unsignedinteger]:
        """See `Tokenizer`. Needs memory for the ids and one block."""
        ids = np.empty(characters, tokenizer.id_dtype(len(self)))
        end = 0
        for block in blocks:
            start, end = end, end + len(block)
            if end > characters:
                break
            ids[start:end] = self._encode(block, start)
        if end != characters:
            raise ValueError(f"the blocks do not have {characters} characters in all")
        return ids

    def _encode(self, text: str, start: int) -> npt.NDArray[np.int64]:
        """The ids of a part of a text that begins at position `start`."""
        codes = code_points(text)
        ids = np.searchsorted(self._codes, codes)
        np.minimum(ids, len(self._codes) - 1, out=ids)
        unknown = self._codes[ids] != codes
        if unknown.any():
            position = int(unknown.argmax())
            raise UserError(
                f"{describe(text[position])} at position {start + position} of the text is not "
                f"among the {len(self)} characters of the vocabulary"
            )
        return ids.astype(np.int64, copy=False)

    def decode(self, ids: npt.ArrayLike) -> str:
        """The text of `ids`, any sequence of whole numbers. UserError on an id out of range."""
        array = tokenizer.checked_ids(ids, len(self))
        return self._codes[array].tobytes().decode("utf-32-le")

    def to_dict(self) -> dict[str, Any]:
        """{"kind": "character", "characters": all of them, in the order of their ids}."""
        return {"kind": self.kind, "characters": self.characters}

    @classmethod
    def from_dict(cls, data: object) -> CharacterTokenizer:
        """The tokenizer that `to_dict` described. UserError if `data` is anything else."""
        if not isinstance(data, dict) or data.get("kind") != cls.kind:
            raise UserError("the tokenizer's description is not that of a character tokenizer")
        characters = data.get("characters")
        if not isinstance(characters, str):
            raise UserError("the tokenizer's description lists no characters")
        if list(characters) != sorted(characters):
            # The order gives the ids: sorting it here would change them silently.
            raise UserError("the tokenizer's characters are not in the order of their code points")
        return cls(characters)


def describe(character: str) -> str:
    """A character as error messages name it: the character 'é' (U+00E9)."""
    return f"the character {character!r} (U+{ord(character):04X})"


Tokenizer = CharacterTokenizer
