"""tiktoken's files of ranks: on each line a token in base64, a space, and its id.

Such a file has neither the pattern that divides the text nor the special tokens. byhand writes both
to NAME.tiktoken.json beside NAME.tiktoken, as the arguments `pat_str` and `special_tokens` of
`tiktoken.Encoding`. OpenAI's own files are known by their number of tokens.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from byhand.errors import UserError
from byhand.text.bytes_alphabet import to_alphabet, to_bytes
from byhand.text.components import flatten
from byhand.text.description import Description, merge_pairs
from byhand.text.formats import parts

FORMAT = "the format of .tiktoken"
ADVICE = "save it as tokenizer.json"

_END = "<|endoftext|>"
# OpenAI's encodings by their number of ranks: the pattern and the special tokens.
_KNOWN: dict[int, tuple[str, dict[str, int]]] = {
    50256: ("gpt2", {_END: 50256}),
    50280: ("gpt2", {_END: 50256}),
    100256: (
        "gpt4",
        {
            _END: 100257,
            "<|fim_prefix|>": 100258,
            "<|fim_middle|>": 100259,
            "<|fim_suffix|>": 100260,
            "<|endofprompt|>": 100276,
        },
    ),
    199998: ("o200k", {_END: 199999, "<|endofprompt|>": 200018}),
}


def settings_path(path: Path) -> Path:
    """Where the pattern and the special tokens of a file of ranks are."""
    return path.with_name(path.name + ".json")


def read(
    path: Path,
    pattern: str | None = None,
    special_tokens: Mapping[str, int] | None = None,
) -> Description:
    """The description of the tokenizer in a file of ranks.

    Args:
        pattern: the name of a pattern, such as "gpt4", or a regular expression. It and
            `special_tokens` are needed where nothing beside the file says them.

    UserError says what is wrong with the file, or that the pattern is not known.
    """
    ranks = _read_ranks(path)
    settings = _settings(path)
    known_pattern, known_tokens = _KNOWN.get(len(ranks), (None, {}))
    pattern = pattern or settings.get("pat_str") or known_pattern
    if pattern is None:
        raise UserError(
            f"{path} does not say by which pattern its text is divided: name it, "
            "as in pattern='gpt4' or --pattern gpt4"
        )
    tokens = special_tokens if special_tokens is not None else settings.get("special_tokens")
    return describe(ranks, pattern, known_tokens if tokens is None else tokens, str(path))


def describe(
    ranks: Mapping[bytes, int], pattern: str, special_tokens: Mapping[str, int], name: str
) -> Description:
    """The description of the ranks of tokens, a pattern by name or as a regular expression, and
    special tokens with their ids.
    """
    from byhand.text.pretokenise import pattern_named

    vocab = {to_alphabet(token): rank for token, rank in ranks.items()}
    parts.require_vocabulary(vocab, name)
    by_id = {rank: token for token, rank in ranks.items()}
    for token, id in special_tokens.items():
        if not token or not isinstance(id, int) or isinstance(id, bool) or id < 0:
            raise UserError(f"the special token {token!r} of {name} cannot have the id {id!r}")
        if id in by_id:
            raise UserError(f"the special token {token!r} of {name} has the id of {by_id[id]!r}")
    return parts.description(
        parts.bpe(vocab, None, ignore_merges=True),
        added=[parts.added_token(id, token) for token, id in special_tokens.items()],
        pre_tokenizer=parts.byte_level_words([pattern_named(pattern)]),
        decoder=parts.BYTE_DECODER,
    )


def _read_ranks(path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(parts.read_file(path).split(b"\n"), 1):
        if not (line := line.strip()):
            continue
        fields = line.split(b" ")
        try:
            token, rank = base64.b64decode(fields[0], validate=True), int(fields[1])
            if len(fields) != 2 or not token or not 0 <= rank < 1 << 31:
                raise ValueError
        except (binascii.Error, ValueError, IndexError):
            raise UserError(
                f"{path}, line {number}: not a token in base64, a space and its id"
            ) from None
        if token in ranks:
            raise UserError(f"{path}, line {number}: the token {token!r} is there twice")
        ranks[token] = rank
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise UserError(f"{path} has no token for the byte {missing[0]}: every byte needs one")
    return ranks


def _settings(path: Path) -> Mapping[str, Any]:
    beside = settings_path(path)
    if not beside.exists():
        return {}
    data = parts.read_json(beside)
    pattern = data.get("pat_str") if isinstance(data, dict) else None
    tokens = data.get("special_tokens") if isinstance(data, dict) else None
    if not isinstance(pattern, str) or not isinstance(tokens, dict):
        raise UserError(f"{beside} does not have pat_str and special_tokens")
    return {"pat_str": pattern, "special_tokens": tokens}


def write(description: Description) -> tuple[bytes, bytes]:
    """The contents of the file of ranks and of the settings beside it. UserError if they cannot
    hold the tokenizer.
    """
    model, pattern = description["model"], _pattern_of(description)
    if model.get("type") != "BPE" or pattern is None:
        raise UserError(
            f"{FORMAT} is for byte-level BPE whose text is divided by one pattern: {ADVICE}"
        )
    added = {token["content"]: token["id"] for token in description.get("added_tokens", ())}
    if plain := [t for t in description.get("added_tokens", ()) if not t["special"]]:
        raise UserError(
            f"{FORMAT} cannot hold {plain[0]['content']!r}, an added token that is not special: "
            f"{ADVICE}"
        )
    ranks = {to_bytes(t): id for t, id in model["vocab"].items() if added.get(t) != id}
    if model.get("merges") is not None:
        _require_ranks(model, ranks)
    again = describe(ranks, pattern, added, "the tokenizer")
    parts.require_kept(description, again, FORMAT, ADVICE)
    lines = (
        base64.b64encode(token) + b" %d\n" % rank
        for token, rank in sorted(ranks.items(), key=lambda item: item[1])
    )
    settings = {"pat_str": pattern, "special_tokens": added}
    return b"".join(lines), json.dumps(settings, ensure_ascii=False, indent=2).encode("utf-8")


def _pattern_of(description: Description) -> str | None:
    """The regular expression that divides the text; None unless there is exactly one."""
    from byhand.text.pretokenise import PATTERNS

    words = flatten(description.get("pre_tokenizer"), "pre_tokenizer")
    if [p["type"] for p in words] == ["ByteLevel"] and words[0].get("use_regex", True):
        return PATTERNS["gpt2"]
    if [p["type"] for p in words] == ["Split", "ByteLevel"]:
        found: str | None = words[0]["pattern"].get("Regex")
        return found
    return None


def _require_ranks(model: Description, ranks: Mapping[bytes, int]) -> None:
    """UserError unless merging the lowest id first does what the list of merges does."""
    last = -1
    made = set()
    for left, right in merge_pairs(model):
        token = to_bytes(left + right)
        id = ranks.get(token)
        if id is None or id < last:
            raise UserError(
                f"the ids of this tokenizer are not in the order of its merges: {ADVICE}"
            )
        last = id
        made.add(token)
    unmade = [token for token in ranks if len(token) > 1 and token not in made]
    if unmade and not model.get("ignore_merges"):
        raise UserError(f"no merge makes the token {unmade[0]!r}, which tiktoken would: {ADVICE}")
    for byte in range(256):
        if bytes([byte]) not in ranks:
            raise UserError(f"the byte {byte} has no token, which {FORMAT} needs: {ADVICE}")


def merges_of(vocab: Mapping[str, int]) -> list[list[str]]:
    """The merges of a vocabulary that is merged by tiktoken's rule: for each token, in the order of
    ids, every division of it into two tokens.
    """
    merges = []
    for token in sorted(vocab, key=vocab.__getitem__):
        pairs = [(token[:i], token[i:]) for i in range(1, len(token))]
        known = [pair for pair in pairs if pair[0] in vocab and pair[1] in vocab]
        known.sort(key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
        merges += [list(pair) for pair in known]
    return merges
