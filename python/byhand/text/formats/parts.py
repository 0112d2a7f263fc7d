"""Parts of descriptions of tokenizers, in the form of Hugging Face's tokenizer.json, and the
reading of files that hold them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from byhand.errors import UserError
from byhand.text.description import Description

BYTE_DECODER = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}


def description(
    model: Mapping[str, Any],
    *,
    added: Iterable[Mapping[str, Any]] = (),
    normalizer: Mapping[str, Any] | None = None,
    pre_tokenizer: Mapping[str, Any] | None = None,
    post_processor: Mapping[str, Any] | None = None,
    decoder: Mapping[str, Any] | None = None,
) -> Description:
    """The description of a tokenizer with these parts."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": sorted(map(dict, added), key=lambda token: token["id"]),
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor,
        "decoder": decoder,
        "model": dict(model),
    }


def bpe(vocab: Mapping[str, int], merges: Any, **options: Any) -> Description:
    """A BPE model; `merges` is a list of pairs, or None for tiktoken's rule: any two neighbours
    that are a token together are merged, the lowest id first.
    """
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        **options,
        "vocab": dict(vocab),
        "merges": merges,
    }


def added_token(
    id: int, content: str, special: bool = True, normalized: bool = False
) -> Description:
    return {
        "id": id,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": normalized,
        "special": special,
    }


def sequence(parts: Iterable[Mapping[str, Any]], name: str) -> Mapping[str, Any] | None:
    """None, the only part, or a Sequence, which keeps its parts under `name`."""
    listed = list(parts)
    if len(listed) < 2:
        return listed[0] if listed else None
    return {"type": "Sequence", name: listed}


def replace(pattern: str, content: str, regex: bool = False) -> Description:
    return {
        "type": "Replace",
        "pattern": {"Regex" if regex else "String": pattern},
        "content": content,
    }


def split(pattern: str, regex: bool = True) -> Description:
    """The pre-tokenizer that makes each match of a regular expression, or each occurrence of a
    text, a word, and what is between two of them another.
    """
    return {
        "type": "Split",
        "pattern": {"Regex" if regex else "String": pattern},
        "behavior": "Isolated",
        "invert": False,
    }


def byte_level(use_regex: bool, add_prefix_space: bool = False) -> Description:
    return {
        "type": "ByteLevel",
        "add_prefix_space": add_prefix_space,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def byte_level_words(patterns: Sequence[str]) -> Mapping[str, Any] | None:
    """The pre-tokenizer of a byte-level vocabulary whose text is divided by regular expressions,
    one after the other.
    """
    from byhand.text.pretokenise import PATTERNS

    if list(patterns) == [PATTERNS["gpt2"]]:
        return byte_level(use_regex=True)
    return sequence([*map(split, patterns), byte_level(use_regex=False)], "pretokenizers")


def template(before: Sequence[str], after: Sequence[str], ids: Mapping[str, int]) -> Description:
    """The post-processor that puts special tokens before and after a text, and `after` also behind
    the second text of a pair, whose tokens have segment 1.
    """

    def token(name: str, segment: int) -> Description:
        return {"SpecialToken": {"id": name, "type_id": segment}}

    single = [*(token(t, 0) for t in before), {"Sequence": {"id": "A", "type_id": 0}}]
    single += [token(t, 0) for t in after]
    second = [] if after else [token(t, 1) for t in before]
    second += [{"Sequence": {"id": "B", "type_id": 1}}, *(token(t, 1) for t in after)]
    used = dict.fromkeys([*before, *after])
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": single + second,
        "special_tokens": {t: {"id": t, "ids": [ids[t]], "tokens": [t]} for t in used},
    }


def require_kept(original: Description, reread: Description, format: str, advice: str) -> None:
    """UserError if a format loses a part of a description, which it names."""
    names = {
        "normalizer": "normaliser",
        "pre_tokenizer": "pre-tokenizer",
        "post_processor": "post-processor",
        "decoder": "decoder",
    }
    for key, name in names.items():
        part, kept = original.get(key), reread.get(key)
        if key == "decoder" and _is_byte_level(part) and _is_byte_level(kept):
            continue  # a decoder does not use the settings
        if _meaning(part) != _meaning(kept):
            kinds = [str(p.get("type")) for p in (part, kept) if p is not None]
            which = f" ({kinds[0]})" if part is not None else ""
            raise UserError(f"{format} cannot hold the {name} of this tokenizer{which}: {advice}")


def _is_byte_level(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "ByteLevel"


def _meaning(part: Any) -> Any:
    """A part without what changes no ids and no text: how offsets are trimmed."""
    if isinstance(part, dict):
        kept = {k: _meaning(v) for k, v in part.items() if k != "trim_offsets" and v is not None}
        if part.get("type") == "ByteLevel" and "use_regex" not in part:
            kept["use_regex"] = True
        return kept
    return [_meaning(one) for one in part] if isinstance(part, list) else part


# --- Files ---------------------------------------------------------------------------------------


def read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def read_text(path: Path) -> str:
    """A UTF-8 file, its line ends as they are. UserError that names the byte that is wrong."""
    try:
        return read_file(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: byte {error.start} does not fit") from None


def read_json(path: Path) -> Any:
    """The data of a JSON file. UserError if it is damaged, too deep, or has a key twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise UserError(f"{path} has the key {twice!r} twice")
        return found

    def refuse(constant: str) -> NoReturn:
        raise UserError(f"{path} has the number {constant}, which JSON does not allow")

    try:
        return json.loads(read_text(path), object_pairs_hook=unique, parse_constant=refuse)
    except UserError:
        raise
    except RecursionError:
        raise UserError(f"{path} is nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None


def require_vocabulary(vocab: Any, name: str) -> dict[str, int]:
    """`vocab` if it maps tokens to different ids that are not far beyond their number."""
    if not isinstance(vocab, dict) or not vocab:
        raise UserError(f"{name} does not map tokens to ids")
    most = 4 * len(vocab) + 1024  # more would be memory for ids without a token
    seen: dict[int, str] = {}
    for token, id in vocab.items():
        if not isinstance(id, int) or isinstance(id, bool) or not 0 <= id < most:
            raise UserError(
                f"{name} gives the token {token!r} the id {id!r}: the ids of {len(vocab)} tokens "
                f"are whole numbers below {most}"
            )
        if id in seen:
            raise UserError(f"{name} gives {seen[id]!r} and {token!r} the same id {id}")
        seen[id] = token
    return vocab
