"""Texts and ids that come in parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from byhand import _text, backend
from byhand.errors import UserError
from byhand.text.description import Description

# Normalisers that change no character because of one on the other side of the place before a space
# between two ASCII letters.
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
# Pre-tokenizers that divide a text there, whatever is on the other side.
_DIVIDING = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
_PART = 1 << 18  # characters that are encoded by one thread at a time


def can_cut(
    normalizers: Sequence[Description],
    pretokenizers: Sequence[Description],
    added: Sequence[Description],
) -> bool:
    """Whether a text can be divided before a space that lies between two ASCII letters, with the
    same ids for its parts.
    """
    return (
        all(part.get("type") in _LOCAL_NORMALISERS for part in normalizers)
        and bool(pretokenizers)
        and _divides(pretokenizers[0])
        and not any(token["rstrip"] or " " in token["content"] for token in added)
    )


def _divides(part: Description) -> bool:
    kind = part.get("type")
    if kind == "ByteLevel":
        return part.get("use_regex", True) is not False
    if kind == "Metaspace":
        # Elsewhere the space would begin the second part, and no other would be put before it.
        return part.get("split", True) is not False
    if kind == "Split":
        from byhand.text.pretokenise import PATTERNS

        pattern = part.get("pattern")
        known = isinstance(pattern, dict) and pattern.get("Regex") in PATTERNS.values()
        kept = {"Isolated": False, "Removed": True}  # what keeps the matches: the value of invert
        return known and kept.get(str(part.get("behavior"))) is part.get("invert", False)
    return kind in _DIVIDING


def groups(blocks: Iterable[str], can_cut: bool) -> Iterator[list[str]]:
    """The text of `blocks` in lists of texts that can be encoded on their own: as they come if
    `can_cut`, otherwise one list of one text.
    """
    if not can_cut:
        yield ["".join(blocks)]
        return
    group: list[str] = []
    waiting: list[str] = []  # since the last place where the text can be divided
    size = 0
    limit = _PART * 2 * threads(None)
    for block in blocks:
        for begin in range(0, len(block), _PART):
            part = block[begin : begin + _PART]
            at = _text.last_cut(part)
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
    if not isinstance(asked, int) or asked < 1:
        raise UserError(f"threads is a whole number of at least 1, not {asked!r}")
    return asked


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
