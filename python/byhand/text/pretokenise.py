"""Pre-tokenizers: how a normalised text is divided into the words that a model encodes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from byhand import _text
from byhand.errors import UserError, suggestion
from byhand.text.components import choose, encode, field, flatten

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"


def _cased(contractions: str, digits: str) -> str:
    return (
        f"{_BEFORE}{_UPPER}*{_LOWER}+{contractions}|{_BEFORE}{_UPPER}+{_LOWER}*{contractions}|"
        rf"{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
    )


def _uncased(digits: str, spaces: str) -> str:
    return rf"{_CONTRACTIONS}|{_BEFORE}\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{spaces}"


_IN_WORD = r"[\p{L}\p{M}\p{N}_]"
_JOINER = r"['" + "\u2019" + r"\-]"
_WORD = rf"{_IN_WORD}+(?:(?:{_JOINER}|(?<=\p{{N}})[.,:/](?=\p{{N}})){_IN_WORD}+)*"
_SIGN = r"[^\s\p{L}\p{M}\p{N}_]"

PATTERNS: dict[str, str] = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "gpt4": _uncased(r"\p{N}{1,3}", r"\s+(?![\s\S])|\s*[\r\n]|\s+(?!\S)|\s"),
    "llama3": _uncased(r"\p{N}{1,3}", _SPACES),
    "qwen2": _uncased(r"\p{N}", _SPACES),
    "o200k": _cased(_CONTRACTIONS + "?", r"\p{N}{1,3}"),
    "tekken": _cased("", r"\p{N}"),
    "words": f"{_WORD}|{_SIGN}",
    "words_spaces": rf" ?{_WORD}| ?{_SIGN}|\s+(?!\S)|\s+",
}
"""The regular expressions of GPT-2, GPT-4 (cl100k), Llama 3, Qwen 2, GPT-4o (o200k) and Mistral's
Tekken, each with a scanner in csrc/text/patterns.cpp, and those of `WordTokenizer`, without and
with the spaces (csrc/text/word_pattern.cpp). They mean the same to tiktoken, to Hugging Face's
tokenizers and to Python's `regex`."""


def pattern_named(name: str) -> str:
    """The regular expression with this name in PATTERNS, or `name` itself, a regular expression.
    UserError for a single word that is no name: as an expression it would find this word only.
    """
    if re.fullmatch(r"[A-Za-z]\w*", name) and name not in PATTERNS:
        near = suggestion(name, PATTERNS)
        raise UserError(f"there is no pattern {name!r}{near}: choose from {', '.join(PATTERNS)}")
    return PATTERNS.get(name, name)


# Other spellings of the same expressions.
_SPELLINGS = {
    **{pattern: name for name, pattern in PATTERNS.items()},
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": "gpt2",
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s": "gpt2",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|"
    r"\s++$|\s*[\r\n]|\s+(?!\S)|\s": "gpt4",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|"
    r"\s*[\r\n]|\s+(?!\S)|\s+": "llama3",
}

_BEHAVIOURS = {
    "Removed": "removed",
    "Isolated": "isolated",
    "MergedWithPrevious": "merged_with_previous",
    "MergedWithNext": "merged_with_next",
    "Contiguous": "contiguous",
}


class Made(NamedTuple):
    """A pre-tokenizer: what changes the text first, and what divides it."""

    normalisers: list[_text.Normaliser]
    pretokenizers: list[_text.PreTokenizer]


def make(description: object) -> Made:
    """The normalisers and pre-tokenizers of a tokenizer.json's "pre_tokenizer" (None: none), both
    to be applied in order to each piece of text between added tokens.

    The normalisers put prefixes before words ("ByteLevel" and "Metaspace"). Byte-level
    vocabularies hold the bytes themselves, so "ByteLevel" changes no bytes. UserError if a type
    is unknown or a value is wrong.
    """
    normalisers: list[_text.Normaliser] = []
    pretokenizers: list[_text.PreTokenizer] = []
    for part in flatten(description, "pre_tokenizer"):
        made = choose(_TYPES, part, "pre_tokenizer")
        if made.normalisers and pretokenizers:
            # The prefix belongs to each word so far: mark where these words end, too.
            normalisers.append(_text.PerWord(pretokenizers, made.normalisers))
            pretokenizers = [_text.Separator()]
        else:
            normalisers += made.normalisers
        pretokenizers = pretokenizers + made.pretokenizers
    return Made(normalisers, pretokenizers)


def matches(description: dict[str, Any]) -> _text.PreTokenizer:
    """What finds a description's "pattern", {"String": text} or {"Regex": expression}, and, for an
    expression that has no scanner, needs the package `regex`.
    """
    pattern = description.get("pattern")
    if isinstance(pattern, str):  # as old files have it
        pattern = {"String": pattern}
    if isinstance(pattern, dict) and len(pattern) == 1:
        kind, text = next(iter(pattern.items()))
        if isinstance(text, str) and kind == "String":
            return _text.Literal(encode(text))
        if isinstance(text, str) and kind == "Regex":
            return _expression(text)
    raise UserError(
        f"{description['type']}: pattern must be an object with either a String or a Regex, not "
        f"{pattern!r:.60}"
    )


def _expression(pattern: str) -> _text.PreTokenizer:
    encode(pattern)
    if pattern in _SPELLINGS:
        return _text.named_pattern(_SPELLINGS[pattern])
    if pattern and re.escape(pattern).replace("\\ ", " ") == pattern:
        return _text.Literal(pattern.encode())
    ends = re.fullmatch(r"\\A([^\\.^$|()\[\]{}*+?])\+|\[([^\\\]^-]+)\]\+\\z", pattern)
    if ends:
        return _text.Ends(list(ends[1] or ends[2]), at_start=ends[1] is not None)
    if pattern in (r"\s+", r"\s"):
        return _text.Characters("space", int(pattern == r"\s+"))
    repeats = re.fullmatch(r"([^\\.^$|()\[\]{}*+?])\{(\d{1,6}),\}", pattern, re.DOTALL)
    if repeats and int(repeats[2]) > 0:
        return _text.Repeats(repeats[1].encode(), int(repeats[2]))
    return _text.callback(_finder(pattern))


def _finder(pattern: str) -> Callable[[str], list[tuple[int, int]]]:
    try:
        import regex
    except ImportError as error:
        raise UserError(
            f"the pattern {pattern!r:.200} needs the package regex: pip install 'byhand[text]'"
        ) from error
    try:
        compiled = regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError) as error:
        raise UserError(f"the pattern {pattern!r:.200} does not compile: {error}") from error
    return lambda text: [match.span() for match in compiled.finditer(text)]


def _behaviour(description: dict[str, Any], default: str | None = None) -> str:
    name = field(description, "behavior", str, default)
    if name not in _BEHAVIOURS:
        known = ", ".join(_BEHAVIOURS)
        raise UserError(f"{description['type']}: behavior is one of {known}, not {name!r:.60}")
    return _BEHAVIOURS[name]


def _only(*pretokenizers: _text.PreTokenizer) -> Made:
    return Made([], list(pretokenizers))


def _byte_level(description: dict[str, Any]) -> Made:
    prefix = field(description, "add_prefix_space", bool, True)
    divide = field(description, "use_regex", bool, True)
    return Made(
        [_text.Prepend(b" ", unless=b" ")] if prefix else [],
        [_text.named_pattern("gpt2")] if divide else [],
    )


def _metaspace(description: dict[str, Any]) -> Made:
    replacement = encode(_character(description, "replacement", "▁"))
    scheme = field(description, "prepend_scheme", str, "always")
    if not field(description, "add_prefix_space", bool, True):
        scheme = "never"
    if scheme not in ("always", "first", "never"):
        raise UserError(f"Metaspace: prepend_scheme is always, first or never, not {scheme!r:.60}")
    normalisers: list[_text.Normaliser] = [_text.Replace(_text.Literal(b" "), replacement)]
    if scheme != "never":
        first = scheme == "first"
        normalisers.append(_text.Prepend(replacement, unless=replacement, first=first))
    divide = field(description, "split", bool, True)
    words = _text.Split(_text.Literal(replacement), "merged_with_next")
    return Made(normalisers, [words] if divide else [])


def _split(description: dict[str, Any]) -> Made:
    found = matches(description)
    behaviour = _behaviour(description)
    return _only(_text.Split(found, behaviour, field(description, "invert", bool, False)))


def _character(description: dict[str, Any], name: str, default: str | None = None) -> str:
    character: str = field(description, name, str, default)
    if len(character) != 1:
        kind = description["type"]
        raise UserError(f"{kind}: {name} must be one character, not {character!r:.60}")
    return character


def _delimiter(description: dict[str, Any]) -> Made:
    delimiter = _text.Literal(encode(_character(description, "delimiter")))
    return _only(_text.Split(delimiter, "removed"))


def _digits(description: dict[str, Any]) -> Made:
    alone = field(description, "individual_digits", bool, False)
    return _only(_text.Split(_text.Characters("number"), "isolated" if alone else "contiguous"))


def _fixed_length(description: dict[str, Any]) -> Made:
    return _only(_text.FixedLength(field(description, "length", int, 5)))


_TYPES: dict[str, Callable[[dict[str, Any]], Made]] = {
    "BertPreTokenizer": lambda _: _only(_text.BertWords()),
    "ByteLevel": _byte_level,
    "CharDelimiterSplit": _delimiter,
    "Digits": _digits,
    "FixedLength": _fixed_length,
    "Metaspace": _metaspace,
    "Punctuation": lambda found: _only(
        _text.Split(_text.Characters("punctuation"), _behaviour(found, "Isolated"))
    ),
    "Split": _split,
    "Whitespace": lambda _: _only(_text.WordRuns()),
    "WhitespaceSplit": lambda _: _only(_text.Characters("nonspace", 1)),
}
