"""Writing SentencePiece's `.model`: the reverse of `sentencepiece.describe`."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

from byhand.errors import UserError
from byhand.text.components import flatten
from byhand.text.description import Description, merge_pairs
from byhand.text.formats import parts
from byhand.text.formats.protobuf import bytes_field, float_field, varint_field
from byhand.text.formats.sentencepiece import (
    BPE,
    BYTE,
    CONTROL,
    NORMAL,
    SPACE,
    UNKNOWN,
    USER_DEFINED,
    Pieces,
    describe,
)

FORMAT = "the format of SentencePiece"
ADVICE = "save it as tokenizer.json"


def write(description: Description) -> bytes:
    """The content of a .model file. UserError if it cannot hold the tokenizer."""
    found = pieces_of(description)
    again = describe(found)
    parts.require_kept(_plain(description), _plain(again), FORMAT, ADVICE)
    return serialise(found)


def pieces_of(description: Description) -> Pieces:
    """The pieces, scores and settings of a Unigram or BPE tokenizer."""
    model = description["model"]
    kind = model.get("type")
    words = flatten(description.get("pre_tokenizer"), "pre_tokenizer")
    if kind == "Unigram":
        found = Pieces([piece for piece, _ in model["vocab"]], [s for _, s in model["vocab"]])
        if model.get("unk_id") is None:
            raise UserError(f"{FORMAT} needs a token for the unknown: {ADVICE}")
        unknown = found.pieces[model["unk_id"]]
    elif kind == "BPE" and any(word["type"] == "ByteLevel" for word in words):
        raise UserError(f"{FORMAT} is not for byte-level BPE: {ADVICE}")
    elif kind == "BPE" and model.get("merges") is not None:
        found = Pieces(*_bpe_pieces(model), model_type=BPE)
        unknown = model.get("unk_token")
    else:
        raise UserError(f"{FORMAT} is for Unigram and BPE with merges, not for {kind}: {ADVICE}")
    found.byte_fallback = bool(model.get("byte_fallback"))
    _set_types(found, description, unknown)
    _set_normaliser(found, description)
    return found


def _bpe_pieces(model: Description) -> tuple[list[str], list[float]]:
    """The pieces in the order of their ids, and scores in the order of the merges."""
    by_id = {id: token for token, id in model["vocab"].items()}
    if sorted(by_id) != list(range(len(by_id))):
        raise UserError(f"{FORMAT} needs a token for every id from 0 on: {ADVICE}")
    for option in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(option):
            raise UserError(f"{FORMAT} cannot hold {option}={model[option]!r}: {ADVICE}")
    if not model.get("fuse_unk"):
        raise UserError(f"{FORMAT} cannot hold fuse_unk=False: {ADVICE}")
    rank: dict[str, int] = {}
    for left, right in merge_pairs(model):
        rank.setdefault(left + right, len(rank))
    pieces = [by_id[id] for id in range(len(by_id))]
    return pieces, [float(-rank.get(piece, len(rank))) for piece in pieces]


def _set_types(found: Pieces, description: Description, unknown: str | None) -> None:
    added = {token["content"]: token for token in description.get("added_tokens", ())}
    for token, settings in sorted(added.items(), key=lambda item: item[1]["id"]):
        if token in found.pieces:
            continue
        if settings["id"] != len(found.pieces):
            raise UserError(f"{FORMAT} needs a token for every id from 0 on: {ADVICE}")
        found.pieces.append(token)
        found.scores.append(0.0)
    words = flatten(description.get("pre_tokenizer"), "pre_tokenizer")
    symbols = {word["pattern"].get("String") for word in words if word["type"] == "Split"}
    for piece in found.pieces:
        if piece == unknown:
            found.types.append(UNKNOWN)
        elif piece in symbols:
            found.types.append(USER_DEFINED)
        elif piece in added:
            found.types.append(CONTROL if added[piece]["special"] else USER_DEFINED)
        elif found.byte_fallback and re.fullmatch("<0x[0-9A-F]{2}>", piece):
            found.types.append(BYTE)
        else:
            found.types.append(NORMAL)
    if UNKNOWN not in found.types:
        raise UserError(f"{FORMAT} needs a token for the unknown: {ADVICE}")


def _set_normaliser(found: Pieces, description: Description) -> None:
    """Reads the settings off the parts; `write` checks that they give the same parts."""
    steps = flatten(description.get("normalizer"), "normalizer")
    steps += flatten(description.get("pre_tokenizer"), "pre_tokenizer")
    kinds = {step["type"] for step in steps}
    found.add_dummy_prefix = "Prepend" in kinds or any(
        step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never"
        for step in steps
    )
    patterns = [step["pattern"].get("Regex") for step in steps if step["type"] == "Replace"]
    found.remove_extra_whitespaces = " {2,}" in patterns
    for step in steps:
        if step["type"] == "Precompiled":
            try:
                found.charsmap = base64.b64decode(step["precompiled_charsmap"], validate=True)
            except (binascii.Error, TypeError, ValueError):
                raise UserError("the precompiled_charsmap is not base64") from None


def _plain(description: Description) -> Description:
    """A description in which what can be written in several ways is written in one, to compare."""
    steps = flatten(description.get("normalizer"), "normalizer")
    # A charsmap of Hugging Face's is written too: in SentencePiece it matches the longest keys.
    steps = [{k: step[k] for k in step if k != "longest_match"} for step in steps]
    words = flatten(description.get("pre_tokenizer"), "pre_tokenizer")
    space = parts.replace(" ", SPACE)
    for word in list(words):
        if _is_metaspace(word):
            words.remove(word)
            if word.get("prepend_scheme", "always") != "never":
                steps.append({"type": "Prepend", "prepend": SPACE})
            steps.append(space)
        elif word["type"] == "Split" and "String" in word["pattern"]:
            if not _has_token(description["model"], word["pattern"]["String"]):
                words.remove(word)  # there is no symbol to write
    if steps.count(space) > 1:
        steps.remove(space)
    return {
        **description,
        "normalizer": parts.sequence(steps, "normalizers"),
        "pre_tokenizer": parts.sequence(words, "pretokenizers"),
        "decoder": _plain_decoder(description.get("decoder")),
    }


def _is_metaspace(part: Any) -> bool:
    return part["type"] == "Metaspace" and part.get("replacement", SPACE) == SPACE


def _has_token(model: Description, token: str) -> bool:
    if model["type"] == "Unigram":
        return any(piece == token for piece, _ in model["vocab"])
    return token in model["vocab"]


def _plain_decoder(decoder: Any) -> Any:
    """Whether bytes are joined and a space is taken from the beginning; the decoder itself if it
    does anything else.
    """
    listed = flatten(decoder, "decoder")
    known = (parts.replace(SPACE, " "), {"type": "ByteFallback"}, {"type": "Fuse"}, _STRIP)
    if not listed or not all(part in known or _is_metaspace(part) for part in listed):
        return decoder
    strips = any(
        _is_metaspace(part) and part.get("prepend_scheme", "always") != "never" for part in listed
    )
    return {
        "type": "SentencePiece",
        "bytes": {"type": "ByteFallback"} in listed,
        "strip": strips or _STRIP in listed,
    }


_STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


def serialise(found: Pieces) -> bytes:
    """The message of `found`."""
    out = [
        bytes_field(
            1,
            bytes_field(1, piece.encode("utf-8")) + float_field(2, score) + varint_field(3, kind),
        )
        for piece, score, kind in zip(found.pieces, found.scores, found.types, strict=True)
    ]
    controls = {p: i for i, p in enumerate(found.pieces) if found.types[i] == CONTROL}
    named = {
        41: (45 + 1, ("<s>", "[CLS]", "<bos>", "[BOS]")),
        42: (45 + 2, ("</s>", "[SEP]", "<eos>", "[EOS]")),
        43: (45 + 3, ("<pad>", "[PAD]")),
    }
    trainer = varint_field(3, found.model_type) + varint_field(4, len(found.pieces))
    trainer += varint_field(35, found.byte_fallback)
    unknown = found.types.index(UNKNOWN)
    trainer += varint_field(40, unknown) + bytes_field(45, found.pieces[unknown].encode("utf-8"))
    for id_field, (piece_field, names) in named.items():
        name = next((name for name in names if name in controls), None)
        trainer += varint_field(id_field, -1 if name is None else controls[name])
        if name is not None:
            trainer += bytes_field(piece_field, name.encode("utf-8"))
    name = found.normaliser_name or ("" if found.charsmap else "identity")
    normaliser = bytes_field(1, name.encode("utf-8"))
    if found.charsmap:
        normaliser += bytes_field(2, found.charsmap)
    normaliser += varint_field(3, found.add_dummy_prefix)
    normaliser += varint_field(4, found.remove_extra_whitespaces) + varint_field(5, True)
    out += [bytes_field(2, trainer), bytes_field(3, normaliser)]
    return b"".join(out)
