"""Texts and ids that come in parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from byhand import _text, backend
from byhand.errors import UserError
from byhand.text.description import Description

# Normalisers that change no character because of one on the other side of a place where a text is
# divided (see Cuts in csrc/text/pipeline.h).
_LOCAL_NORMALISERS = {
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Lowercase",
    "StripAccents",
    "BertNormalizer",
    "Nmt",
    "Precompiled",
    "ByteLevel",
}
_PART = 1 << 18  # characters that are encoded by one thread at a time


def cuts(
    normalizers: Sequence[Description],
    pretokenizers: Sequence[Description],
    added: Sequence[Description],
) -> int:
    """Where a text can be divided with the same ids for its parts: 0 nowhere, 1 before a space that
    is between two letters, 2 also before "、", "。" or a full-width comma behind a letter, and
    before a line end behind a letter or digit.
    """
    if not pretokenizers or any(part.get("type") not in _LOCAL_NORMALISERS for part in normalizers):
        return 0
    places = _divides(pretokenizers[0])
    for token in added:
        if token["rstrip"] or any(c.isspace() for c in token["content"]):
            return 0
        if any(c in "、。\uff0c" for c in token["content"]):
            places = min(places, 1)
    return places


def _divides(part: Description) -> int:
    """Where a pre-tokenizer always divides a text, as in `cuts`."""
    kind = part.get("type")
    if kind == "ByteLevel":
        if part.get("use_regex") is False:
            return 0
        # A space would be put before a part that does not begin with one.
        return 1 if part.get("add_prefix_space", True) else 2
    if kind == "Metaspace":
        # No second space is put before the part that begins with one.
        return 0 if part.get("split") is False else 1
    if kind == "Split":
        from byhand.text.pretokenise import PATTERNS

        pattern = part.get("pattern")
        known = isinstance(pattern, dict) and pattern.get("Regex") in PATTERNS.values()
        kept = {"Isolated": False, "Removed": True}.get(str(part.get("behavior")))
        return 2 if known and kept is part.get("invert", False) else 0  # all matches are words
    return {"BertPreTokenizer": 2, "Whitespace": 2, "WhitespaceSplit": 1}.get(str(kind), 0)


def checked(blocks: Iterable[Any]) -> Iterator[str]:
    """The blocks of a text. UserError if one is no str."""
    for block in blocks:
        if not isinstance(block, str):
            raise UserError(f"a text must be a str, not {type(block).__name__}")
        yield block


def groups(blocks: Iterable[str], cuts: int) -> Iterator[list[str]]:
    """The text of `blocks` in lists of texts that can be encoded on their own, divided where `cuts`
    allows it; with 0 one list of one text. UserError if a block has half of a surrogate pair.
    """
    if not cuts:
        yield ["".join(blocks)]
        return
    group: list[str] = []
    waiting: list[str] = []  # since the last place where the text can be divided
    size = done = 0
    limit = _PART * 2 * threads(None)
    for block in blocks:
        for begin in range(0, len(block), _PART):
            part = block[begin : begin + _PART]
            try:
                at = _text.last_cut(part, cuts)
            except ValueError:
                wrong = next(i for i, c in enumerate(part) if "\ud800" <= c <= "\udfff")
                raise UserError(
                    f"the character U+{ord(part[wrong]):04X} at position {done + wrong} of the "
                    "text is half of a surrogate pair"
                ) from None
            done += len(part)
            if at < 0:
                waiting.append(part)
                continue
            group.append("".join([*waiting, part[:at]]))
            waiting = [part[at:]]
            size += len(group[-1])
            if size >= limit:
                yield group
                group, size = [], 0
    yield [*group, "".join(waiting)]


def threads(asked: int | None) -> int:
    """The number of threads: what was asked for, or byhand's."""
    if asked is None:
        return backend.get_num_threads()
    if not isinstance(asked, int | np.integer) or asked < 1:
        raise UserError(f"threads is a whole number of at least 1, not {asked!r}")
    return int(asked)


class Decoding:
    """The text of ids that come one after the other: a part is returned once later ids cannot
    change it.
    """

    def __init__(
        self, decode: Callable[[npt.ArrayLike], str], waits: Callable[[Sequence[int]], bool]
    ) -> None:
        """
        Args:
            decode: the text of ids.
            waits: whether the text of the last of some ids depends on the ids that follow.
        """
        self._decode = decode
        self._waits = waits
        self._ids: list[int] = []
        self._known = 0  # ids whose text was returned; they are kept for what follows them
        self._before = ""  # their text

    def follow(self, ids: npt.ArrayLike) -> None:
        """Begin behind ids whose text is known, such as a prompt: between words, some tokenizers
        put a space.
        """
        self._ids = np.atleast_1d(np.asarray(ids)).tolist()
        self._known, self._before = len(self._ids), self._decode(self._ids)

    def add(self, ids: npt.ArrayLike) -> str:
        """The text that is certain with these ids: an id, or a sequence of them."""
        self._ids += np.atleast_1d(np.asarray(ids)).tolist()
        text = self._decode(self._ids)
        if len(text) <= len(self._before) or text.endswith("\ufffd"):
            return ""
        if self._waits(self._ids):
            return ""
        new = text[len(self._before) :]
        self._ids = self._ids[self._known :]
        self._known, self._before = len(self._ids), self._decode(self._ids)
        return new

    def finish(self) -> str:
        """The rest of the text."""
        text = self._decode(self._ids)[len(self._before) :] if self._ids else ""
        self._ids, self._known, self._before = [], 0, ""
        return text
