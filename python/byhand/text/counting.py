"""The words that tokenizers are trained on, counted."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from byhand import _text
from byhand.errors import UserError
from byhand.text import normalise, pretokenise, stream
from byhand.text.components import flatten
from byhand.text.description import Description
from byhand.text.formats import parts

_BLOCK = 1 << 20  # bytes of a file that are read at once, characters that are counted at once
_SHORT = 1 << 16  # characters


class Source(Protocol):
    """A text in consecutive pieces, such as `byhand.data.TextSource`."""

    def blocks(self) -> Iterable[str]: ...


class BlockSource:
    """A text whose consecutive pieces can be read once."""

    def __init__(self, blocks: Iterable[str]) -> None:
        self._blocks = blocks

    def blocks(self) -> Iterable[str]:
        return self._blocks


Text = str | Path | Source
Texts = Text | Iterable[Text]
Progress = Callable[[int, int], object]
"""Called with how much of the work is done, and all of it."""


def count_words(
    texts: Texts,
    normalizer: Description | None,
    pre_tokenizer: Description | None,
    threads: int | None,
) -> _text.WordCounts:
    """The words of texts with their counts. Memory is needed for the distinct words and a few
    blocks, unless the pre-tokenizer cannot divide a text that it has not seen to its end.

    Args:
        texts: a str; a path of a UTF-8 file; something with `blocks()`; or several of these, each
            on its own: no word reaches from one into the next.
        normalizer, pre_tokenizer: as in tokenizer.json.
        threads: how many threads count. Default: `byhand.get_num_threads()`.

    UserError if something is neither text nor path or a file is not UTF-8.
    """
    counter = Counter(normalizer, pre_tokenizer, stream.threads(threads))
    several = isinstance(texts, Iterable) and not isinstance(texts, str)
    for text in texts if several else [texts]:  # type: ignore[union-attr]
        if isinstance(text, str):
            counter.add_text(text)
        elif isinstance(text, Path):
            counter.add(read_blocks(text))
        elif hasattr(text, "blocks"):
            counter.add(text.blocks())
        else:
            raise UserError(f"a tokenizer is trained on texts or paths, not {type(text).__name__}")
    counter.flush()
    return counter.counts


class Counter:
    """Counts the words of texts that come in blocks."""

    def __init__(
        self, normalizer: Description | None, pre_tokenizer: Description | None, threads: int
    ) -> None:
        self.counts = _text.WordCounts()
        self._threads = threads
        self._short: list[str] = []  # texts that wait for others, to be counted together
        self._size = 0
        before, splitters = pretokenise.make(pre_tokenizer)
        self._cuts = stream.cuts(
            flatten(normalizer, "normalizer"),
            flatten(pre_tokenizer, "pre_tokenizer"),
            [],
        )
        self._pipeline = _text.Pipeline(
            normalise.make(normalizer), splitters, None, [], piece_normalisers=before
        )

    def add(self, blocks: Iterable[str]) -> None:
        """Counts the words of one text, which comes in consecutive pieces."""
        for group in stream.groups(stream.checked(blocks), self._cuts):
            self._count(group)

    def add_text(self, text: str) -> None:
        """Counts the words of one text, at once or with others that follow: call `flush` after the
        last one.
        """
        if len(text) >= _SHORT:
            return self.add([text])
        self._short.append(text)
        self._size += len(text) + 64
        if self._size >= _BLOCK:
            self.flush()

    def flush(self) -> None:
        short, self._short, self._size = self._short, [], 0
        self._count(short)

    def _count(self, texts: list[str]) -> None:
        try:
            self._pipeline.count_words(texts, self.counts, self._threads)
        except ValueError as error:
            raise UserError(str(error)) from None


def read_blocks(path: Path) -> Iterator[str]:
    """The text of a UTF-8 file in blocks. UserError if it is not UTF-8, or cannot be read."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    done = 0
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                waiting = len(decoder.getstate()[0])
                yield decoder.decode(block)
                done += len(block)
            waiting = len(decoder.getstate()[0])
            yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text: byte {done - waiting + error.start} does not fit"
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def special_tokens_of(tokens: Iterable[str], required: str | None = None) -> list[str]:
    """Names of special tokens, checked. UserError if one is empty, occurs twice, or if `required`
    is not among them.
    """
    if not isinstance(tokens, Iterable):
        raise UserError(f"special_tokens is a list of texts, not {tokens!r:.60}")
    listed = [tokens] if isinstance(tokens, str) else list(tokens)
    for token in listed:
        if not isinstance(token, str) or not token:
            raise UserError(f"a special token is a text of at least one character, not {token!r}")
        if any("\ud800" <= c <= "\udfff" for c in token):
            raise UserError(f"the special token {token!r} has half of a surrogate pair")
        if listed.count(token) > 1:
            raise UserError(f"the special token {token!r} is listed twice")
    if required is not None and required not in listed:
        raise UserError(f"the special tokens need {required!r}, which stands for unknown text")
    return listed


def added_tokens(tokens: Iterable[str]) -> list[Description]:
    """The "added_tokens" of a tokenizer whose first ids are those of these special tokens."""
    return [parts.added_token(id, token) for id, token in enumerate(tokens)]


_ALPHABET = re.compile("(##)?.|<0x[0-9A-F]{2}>", re.DOTALL)


def without_special(tokens: Iterable[str], special: list[str]) -> list[str]:
    """Learned tokens without those that are spelled like a special one: no text becomes it. Words
    have other tokens in their place. UserError if such a token is a character or a byte.
    """
    listed = list(tokens)
    for token in listed:
        if token in special and _ALPHABET.fullmatch(token):
            raise UserError(f"the special token {token!r} is a part of the alphabet of the text")
    return [token for token in listed if token not in special]


def learned(
    train: Callable[..., Any], counts: _text.WordCounts, vocabulary_size: int, **options: Any
) -> Any:
    """train(...), a trainer of `_text`, whose errors become UserErrors."""
    if not isinstance(vocabulary_size, int | np.integer) or vocabulary_size < 1:
        raise UserError(
            f"vocabulary_size is a whole number of at least 1, not {vocabulary_size!r:.60}"
        )
    most = min(int(vocabulary_size), 1 << 31)  # ids have 32 bits; no text has so many tokens
    try:
        return train(counts, most, **options)
    except TypeError:
        wrong = ", ".join(f"{name}={value!r:.40}" for name, value in options.items())
        raise UserError(f"an argument of the training has a wrong type: {wrong}") from None
    except (ValueError, OverflowError) as error:
        raise UserError(str(error)) from None
