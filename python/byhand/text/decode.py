"""From tokens back to text: the decoders of Hugging Face's tokenizer.json.

A decoder maps a list of tokens to a list of pieces of text, which are joined at the end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from byhand.errors import UserError, suggestion
from byhand.text import bytes_alphabet
from byhand.text.components import flatten
from byhand.text.description import Description, whole_number

Step = Callable[[list[str]], list[str]]


class Decoder:
    """The decoder of a description.

    Attributes:
        joins_bytes: whether the text is that of the tokens' bytes in a byte-level vocabulary, one
            after the other.
    """

    def __init__(self, description: Description | None) -> None:
        """UserError if the description is wrong, or its type unknown."""
        parts = flatten(description, "decoder")
        self._steps = [_step(part) for part in parts]
        self._separator = " " if description is None else ""
        kinds = [part["type"] for part in parts]
        self.joins_bytes = kinds == ["ByteLevel"]
        self._falls_back = "ByteFallback" in kinds

    def decode(self, tokens: Sequence[str]) -> str:
        """The text of these tokens, written as in the vocabulary."""
        pieces = list(tokens)
        for step in self._steps:
            pieces = step(pieces)
        return self._separator.join(pieces)

    def joins_runs(self, token: str) -> bool:
        """Whether the token is one of a run that is decoded together: a byte of byte fallback."""
        return self._falls_back and _BYTE.fullmatch(token) is not None


def make(description: Description | None) -> Decoder:
    """The decoder of a description. None joins the tokens with spaces, as Hugging Face does."""
    return Decoder(description)


def _step(part: Description) -> Step:
    kind = part["type"]
    if kind not in _STEPS:
        raise UserError(f"the decoder {kind!r:.60} is not supported{suggestion(kind, _STEPS)}")
    return _STEPS[kind](part)


def _field(part: Description, name: str, type_: type, default: Any = None) -> Any:
    value = part.get(name, default)
    if not isinstance(value, type_) or (type_ is int and not whole_number(value)):
        raise UserError(f'the "{name}" of the decoder {part["type"]} cannot be {value!r:.60}')
    return value


def _character(part: Description, name: str, default: str | None = None) -> str:
    value: str = _field(part, name, str, default)
    if len(value) != 1:
        raise UserError(f'the "{name}" of the decoder {part["type"]} is one character')
    return value


def _each(change: Callable[[str], str]) -> Step:
    return lambda tokens: [change(token) for token in tokens]


def _byte_level(part: Description) -> Step:
    def data(token: str) -> bytes:
        if bytes_alphabet.is_alphabet(token):
            return bytes_alphabet.to_bytes(token)
        return token.encode("utf-8")

    return lambda tokens: [b"".join(map(data, tokens)).decode("utf-8", "replace")]


def _bpe(part: Description) -> Step:
    suffix = _field(part, "suffix", str, "</w>")

    def step(tokens: list[str]) -> list[str]:
        if not tokens:
            return tokens
        spaced = [token.replace(suffix, " ") for token in tokens[:-1]]
        return [*spaced, tokens[-1].replace(suffix, "")]

    return step


def _word_piece(part: Description) -> Step:
    prefix, cleanup = _field(part, "prefix", str, "##"), _field(part, "cleanup", bool, True)

    def step(tokens: list[str]) -> list[str]:
        pieces = tokens[:1]
        for token in tokens[1:]:
            pieces.append(token[len(prefix) :] if token.startswith(prefix) else " " + token)
        return [_cleaned(piece) for piece in pieces] if cleanup else pieces

    return step


_CONTRACTIONS = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" do not", " don't"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


def _cleaned(text: str) -> str:
    for spaced, plain in _CONTRACTIONS:
        text = text.replace(spaced, plain)
    return text


def _metaspace(part: Description) -> Step:
    space = _character(part, "replacement", "\u2581")
    scheme = part.get("prepend_scheme")
    if scheme is None:  # as files of older versions have it
        scheme = "always" if _field(part, "add_prefix_space", bool, True) else "never"
    if scheme not in ("always", "first", "never"):
        raise UserError(f"the prepend_scheme of Metaspace cannot be {scheme!r:.60}")

    def step(tokens: list[str]) -> list[str]:
        pieces = [token.replace(space, " ") for token in tokens]
        if tokens and scheme != "never":
            pieces[0] = tokens[0].replace(space, "")
        return pieces

    return step


def _ctc(part: Description) -> Step:
    pad = _field(part, "pad_token", str, "<pad>")
    delimiter = _field(part, "word_delimiter_token", str, "|")
    cleanup = _field(part, "cleanup", bool, True)

    def text(token: str) -> str:
        token = token.replace(pad, "")
        return _cleaned(token).replace(delimiter, " ") if cleanup else token

    return lambda tokens: [piece for token, _ in groupby(tokens) if (piece := text(token))]


def _replace(part: Description) -> Step:
    pattern, content = _field(part, "pattern", dict), _field(part, "content", str)
    if isinstance(pattern.get("String"), str):
        string = pattern["String"]
        return _each(lambda token: token.replace(string, content))
    if not isinstance(pattern.get("Regex"), str):
        raise UserError("the pattern of the decoder Replace is a String or a Regex")
    found = _compiled(pattern["Regex"])
    return _each(lambda token: found.sub(lambda _: content, token))


def _compiled(pattern: str) -> Any:
    try:
        import regex as engine
    except ImportError:
        engine = re
    try:
        return engine.compile(pattern)
    except (engine.error, RecursionError, OverflowError) as error:
        raise UserError(f"the regular expression {pattern!r:.60} is wrong: {error}") from None


def _strip(part: Description) -> Step:
    content = _character(part, "content")
    start, stop = _field(part, "start", int, 0), _field(part, "stop", int, 0)

    def text(token: str) -> str:
        begin, end = 0, len(token)
        while begin < min(start, len(token)) and token[begin] == content:
            begin += 1
        while end > begin and len(token) - end < stop and token[end - 1] == content:
            end -= 1
        return token[begin:end]

    return _each(text)


def _byte_fallback(part: Description) -> Step:
    def step(tokens: list[str]) -> list[str]:
        pieces: list[str] = []
        for is_byte, group in groupby(tokens, lambda token: _BYTE.fullmatch(token) is not None):
            if not is_byte:
                pieces.extend(group)
                continue
            data = bytes(int(token[3:5], 16) for token in group)
            try:
                pieces.append(data.decode("utf-8"))
            except UnicodeDecodeError:
                pieces.extend(["\ufffd"] * len(data))
        return pieces

    return step


_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")

_STEPS: dict[str, Callable[[Description], Step]] = {
    "BPEDecoder": _bpe,
    "ByteLevel": _byte_level,
    "WordPiece": _word_piece,
    "Metaspace": _metaspace,
    "CTC": _ctc,
    "Replace": _replace,
    "Fuse": lambda part: lambda tokens: ["".join(tokens)],
    "Strip": _strip,
    "ByteFallback": _byte_fallback,
}
