"""Native models made from their descriptions."""

from __future__ import annotations

from collections.abc import Collection

from byhand import _text
from byhand.errors import UserError
from byhand.text import bytes_alphabet
from byhand.text.description import Description, merge_pairs, vocabulary


def make(
    description: Description,
    byte_level: bool,
    *,
    special: Collection[int] = (),
    seed: int = 0,
) -> _text.Model:
    """The model of a checked description.

    Args:
        description: the "model" of a tokenizer.
        byte_level: whether the vocabulary is written in the alphabet of bytes.
        special: ids of tokens that no text may become, unless the text spells out a token that
            was added.
        seed: for a model that draws its tokens (BPE with dropout).

    UserError if the model is wrong.
    """
    kind = description["type"]
    tokens = vocabulary(description)
    try:
        if kind == "Unigram":
            scored = [(encoded(t, byte_level), score) for t, score in description["vocab"]]
            return _text.Unigram(
                scored,
                unk_id=description["unk_id"],
                byte_fallback=description["byte_fallback"],
                special=sorted(special),
                float32=description["float32"],
            )
        data = [encoded(token, byte_level) for token in tokens]
        if kind == "BPE":
            return _bpe(description, data, byte_level, seed)
        unk = encoded(description["unk_token"], byte_level)
        unk_or_none = unk if description["unk_token"] in description["vocab"] else None
        if kind == "WordLevel":
            return _text.WordLevel(data, unk=unk_or_none, special=sorted(special))
        return _text.WordPiece(
            data,
            unk=unk_or_none,
            prefix=encoded(description["continuing_subword_prefix"], byte_level),
            max_characters=description["max_input_chars_per_word"],
            special=sorted(special),
        )
    except UserError:
        raise
    except (ValueError, OverflowError) as error:
        raise UserError(f"the {kind} model is wrong: {error}") from None


def encoded(token: str, byte_level: bool) -> bytes:
    """The bytes that a token of a vocabulary stands for; b"" if no text can become it, because a
    byte-level vocabulary has it in characters that stand for no bytes.
    """
    if not byte_level:
        return token.encode("utf-8")
    return bytes_alphabet.to_bytes(token) if bytes_alphabet.is_alphabet(token) else b""


def _bpe(description: Description, data: list[bytes], byte_level: bool, seed: int) -> _text.Model:
    unk = description["unk_token"]
    if unk is not None and unk not in description["vocab"]:
        if not byte_level:
            raise UserError(f"the unk_token {unk!r} is not in the vocab")
        unk = None  # not needed: every byte is a token
    merges = description["merges"]
    if merges is not None:
        of = dict(zip(vocabulary(description), data, strict=True))
        merges = [(of[left], of[right]) for left, right in merge_pairs(description)]
    return _text.BPE(
        data,
        merges,
        unk=None if unk is None else encoded(unk, byte_level),
        fuse_unk=description["fuse_unk"],
        byte_fallback=description["byte_fallback"],
        prefix=encoded(description["continuing_subword_prefix"] or "", byte_level),
        suffix=encoded(description["end_of_word_suffix"] or "", byte_level),
        ignore_merges=description["ignore_merges"],
        dropout=description["dropout"] or 0.0,
        seed=seed,
        byte_level=byte_level,
    )
