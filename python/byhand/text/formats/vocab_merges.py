"""vocab.json and merges.txt: the two files of GPT-2's byte-level BPE, and of BPE whose tokens end
with "</w>".

vocab.json maps tokens to ids, merges.txt has one merge on each line, in their order. A vocabulary
with GPT-2's printable alphabet of bytes is byte-level, and its text is divided by GPT-2's pattern;
with "</w>" too it is CLIP's. One without that alphabet is read as Hugging Face's CharBPETokenizer.
"""

from __future__ import annotations

import json
from pathlib import Path

from byhand.errors import UserError
from byhand.text.bytes_alphabet import ALPHABET
from byhand.text.description import Description, merge_pairs
from byhand.text.formats import parts

FORMAT = "the format of vocab.json and merges.txt"
ADVICE = "save it as tokenizer.json"
END = "</w>"

_CLIP_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def read(vocab_path: Path, merges_path: Path) -> Description:
    """The description of the tokenizer in two files. UserError says what is wrong with them."""
    vocab = parts.require_vocabulary(parts.read_json(vocab_path), str(vocab_path))
    merges = _read_merges(merges_path, vocab)
    return describe(vocab, merges)


def describe(vocab: dict[str, int], merges: list[list[str]]) -> Description:
    """The description of a vocabulary with its merges."""
    made = {a + b for a, b in merges}
    byte_level = all(byte in vocab for byte in ALPHABET)
    suffix = END if any(token.endswith(END) for token in made) else None
    letters = set(ALPHABET) | {c + END for c in ALPHABET} if byte_level else None
    # No text becomes a token that neither is a single character nor is made by a merge.
    added = [
        parts.added_token(id, token)
        for token, id in vocab.items()
        if token not in made and not _is_letter(token, letters, suffix)
    ]
    unk = next((t["content"] for t in added if t["content"] in ("<unk>", "[UNK]")), None)
    if not byte_level:
        return parts.description(
            parts.bpe(vocab, merges, unk_token=unk, end_of_word_suffix=suffix),
            added=added,
            normalizer=None if suffix is None else _BERT_WITHOUT_LOWER_CASE,
            pre_tokenizer={"type": "BertPreTokenizer"},
            decoder={"type": "BPEDecoder", "suffix": suffix or ""},
        )
    if suffix is None:
        return parts.description(
            parts.bpe(vocab, merges),
            added=added,
            pre_tokenizer=parts.byte_level(use_regex=True),
            decoder=parts.BYTE_DECODER,
        )
    clip_split = {**parts.split(_CLIP_PATTERN), "behavior": "Removed", "invert": True}
    ends = [t["content"] for t in added if t["content"] == "<|endoftext|>"]
    starts = [t["content"] for t in added if t["content"] == "<|startoftext|>"]
    return parts.description(
        parts.bpe(vocab, merges, unk_token=next(iter(ends), None), end_of_word_suffix=suffix),
        added=added,
        normalizer=parts.sequence(
            [{"type": "NFC"}, parts.replace(r"\s+", " ", regex=True), {"type": "Lowercase"}],
            "normalizers",
        ),
        pre_tokenizer=parts.sequence(
            [clip_split, parts.byte_level(use_regex=False)], "pretokenizers"
        ),
        post_processor=parts.template(starts, ends, vocab) if starts and ends else None,
        decoder={"type": "Sequence", "decoders": [parts.BYTE_DECODER, parts.replace(END, " ")]},
    )


_BERT_WITHOUT_LOWER_CASE = {
    "type": "BertNormalizer",
    "clean_text": True,
    "handle_chinese_chars": True,
    "strip_accents": None,
    "lowercase": False,
}


def _is_letter(token: str, letters: set[str] | None, suffix: str | None) -> bool:
    if letters is not None:
        return token in letters
    return len(token.removesuffix(suffix) if suffix else token) <= 1


def _read_merges(path: Path, vocab: dict[str, int]) -> list[list[str]]:
    merges = []
    for number, line in enumerate(parts.read_text(path).split("\n"), 1):
        line = line.removesuffix("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not all(pair):
            raise UserError(f"{path}, line {number}: a merge is two tokens with a space between")
        for token in (*pair, "".join(pair)):
            if token not in vocab:
                raise UserError(
                    f"{path}, line {number}: the token {token!r} is not in the vocabulary"
                )
        merges.append(pair)
    return merges


def write(description: Description) -> tuple[bytes, bytes]:
    """The contents of vocab.json and merges.txt. UserError if they cannot hold the tokenizer."""
    model = description["model"]
    if model.get("type") != "BPE":
        raise UserError(f"{FORMAT} is for BPE, not for {model.get('type')}: {ADVICE}")
    if model.get("merges") is None:
        raise UserError(
            f"this tokenizer has ranks and no merges: save it as .tiktoken, or {ADVICE}"
        )
    added = {token["content"]: token["id"] for token in description.get("added_tokens", ())}
    vocab = {**model["vocab"], **added}
    merges = [list(pair) for pair in merge_pairs(model)]
    for left, right in merges:
        if not left or not right or any(c in left + right for c in " \r\n"):
            raise UserError(f"merges.txt cannot hold the merge of {left!r} and {right!r}: {ADVICE}")
    again = describe(vocab, merges)
    _require_options(model, again["model"])
    parts.require_kept(description, again, FORMAT, ADVICE)
    found = {(t["id"], t["content"], t["special"]) for t in again["added_tokens"]}
    for token in description.get("added_tokens", ()):
        if (token["id"], token["content"], token["special"]) not in found:
            raise UserError(
                f"{FORMAT} cannot tell that {token['content']!r} is an added token: {ADVICE}"
            )
    ordered = dict(sorted(vocab.items(), key=lambda item: item[1]))
    lines = ["#version: 0.2", *map(" ".join, merges), ""]
    return (
        json.dumps(ordered, ensure_ascii=False).encode("utf-8"),
        "\n".join(lines).encode("utf-8"),
    )


def _require_options(model: Description, again: Description) -> None:
    """UserError for options of a BPE model that the files do not hold."""
    for option in sorted((model.keys() | again.keys()) - {"vocab", "merges"}):
        if (model.get(option) or None) != (again.get(option) or None):
            raise UserError(f"{FORMAT} cannot hold {option}={model.get(option)!r}: {ADVICE}")
