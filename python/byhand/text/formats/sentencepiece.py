"""SentencePiece's `.model`: a message of protocol buffers with the pieces and their scores, how
they were trained, and how text is normalised (sentencepiece_model.proto in its sources).

SentencePiece divides a whole text, spaces included: each space is written as "▁" (U+2581).
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from byhand.errors import UserError
from byhand.text.description import Description
from byhand.text.formats import parts
from byhand.text.formats.protobuf import BYTES, FIXED32, VARINT, fields

SPACE = "\u2581"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE = 1, 2
_MODELS = {UNIGRAM: "Unigram", BPE: "BPE", 3: "WORD", 4: "CHAR"}


@dataclass
class Pieces:
    """What a SentencePiece model says; the defaults are those of its message."""

    pieces: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    model_type: int = UNIGRAM
    byte_fallback: bool = False
    space_at_end: bool = False  # treat_whitespace_as_suffix
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True
    normaliser_name: str = ""
    charsmap: bytes = b""


def read(path: Path) -> Description:
    """The description of the tokenizer in a .model file. UserError says what is wrong with it."""
    try:
        return describe(parse(parts.read_file(path)))
    except UserError as error:
        if str(path) in str(error):
            raise
        raise UserError(f"{path} is not a SentencePiece model: {error}") from None


def parse(data: bytes) -> Pieces:
    """The contents of a .model file. UserError says what is wrong with it."""
    found = Pieces()
    for number, _, value in _fields(memoryview(data), {1: BYTES, 2: BYTES, 3: BYTES}):
        if number == 1:
            _parse_piece(value, found)
        elif number == 2:
            for inner, _, setting in _fields(value, {3: VARINT, 24: VARINT, 35: VARINT}):
                if inner == 3:
                    found.model_type = setting
                elif inner == 24:
                    found.space_at_end = bool(setting)
                elif inner == 35:
                    found.byte_fallback = bool(setting)
        elif number == 3:
            _parse_normaliser(value, found)
    return found


def _fields(data: memoryview, wires: dict[int, int]) -> Any:
    """`fields`, of which those with these numbers must have these wire types."""
    for number, wire, value in fields(data):
        if wires.get(number, wire) != wire:
            raise UserError(f"field {number} has the wire type {wire}, not {wires[number]}")
        yield number, wire, value


def _parse_piece(data: memoryview, found: Pieces) -> None:
    piece, score, kind = b"", 0.0, NORMAL
    for number, _, value in _fields(data, {1: BYTES, 2: FIXED32, 3: VARINT}):
        if number == 1:
            piece = bytes(value)
        elif number == 2:
            score = value
        elif number == 3:
            kind = value
    id = len(found.pieces)
    if not piece:
        raise UserError(f"piece {id} is empty")
    if not math.isfinite(score):
        raise UserError(f"the score of piece {id} is {score}")
    if not NORMAL <= kind <= BYTE:
        raise UserError(f"piece {id} is of the unknown type {kind}")
    try:
        found.pieces.append(piece.decode("utf-8"))
    except UnicodeDecodeError:
        raise UserError(f"piece {id} is not UTF-8") from None
    found.scores.append(score)
    found.types.append(kind)


def _parse_normaliser(data: memoryview, found: Pieces) -> None:
    wires = {1: BYTES, 2: BYTES, 3: VARINT, 4: VARINT, 5: VARINT}
    for number, _, value in _fields(data, wires):
        if number == 1:
            found.normaliser_name = bytes(value).decode("utf-8", "replace")
        elif number == 2:
            found.charsmap = bytes(value)
        elif number == 3:
            found.add_dummy_prefix = bool(value)
        elif number == 4:
            found.remove_extra_whitespaces = bool(value)
        elif number == 5:
            found.escape_whitespaces = bool(value)


# --- To a description ----------------------------------------------------------------------------


def describe(found: Pieces, cut_first: bool = False) -> Description:
    """The description of a SentencePiece model. UserError if its kind is not supported, or it has
    no unknown piece or a piece twice.

    Args:
        cut_first: as llama.cpp does: symbols of the user are cut out before the text is normalised,
            piece by piece, and sums of scores are float64. SentencePiece normalises the text as a
            whole, and adds in float32.
    """
    if found.model_type not in (UNIGRAM, BPE):
        kind = _MODELS.get(found.model_type, str(found.model_type))
        raise UserError(f"SentencePiece's model type {kind} is not supported yet")
    if found.space_at_end:
        raise UserError("SentencePiece's treat_whitespace_as_suffix is not supported yet")
    if not found.escape_whitespaces:
        raise UserError("SentencePiece's escape_whitespaces=false is not supported yet")
    seen: dict[str, int] = {}
    for id, piece in enumerate(found.pieces):
        if seen.setdefault(piece, id) != id:
            raise UserError(f"the pieces {seen[piece]} and {id} are both {piece!r}")
    if UNUSED in found.types:
        unused = found.types.index(UNUSED)
        raise UserError(f"piece {unused} is unused, a type that is not supported yet")
    unknown = [id for id, kind in enumerate(found.types) if kind == UNKNOWN]
    if len(unknown) != 1:
        raise UserError(f"it has {len(unknown)} pieces for the unknown, not 1")
    if NORMAL not in found.types:
        raise UserError("it has no normal pieces")
    symbols = [id for id, kind in enumerate(found.types) if kind == USER_DEFINED]
    # Where normalising depends on what is around a character, cutting symbols out before would
    # change it. They are then divided from the normalised text, and whole words that are tokens.
    as_words = bool(symbols) and not cut_first and _looks_around(found)
    added = [
        parts.added_token(
            id, piece, special=id not in symbols, normalized=id in symbols and not cut_first
        )
        for id, piece in enumerate(found.pieces)
        if found.types[id] in (UNKNOWN, CONTROL) or (id in symbols and not as_words)
    ]
    if found.model_type == UNIGRAM:
        model = _unigram(found, unknown[0], float32=not cut_first)
    else:
        model = _bpe(found, unknown[0])
    words = sorted((found.pieces[id] for id in symbols), key=len, reverse=True) if as_words else ()
    if as_words and found.model_type == BPE:
        model["ignore_merges"] = True
    return parts.description(
        model,
        added=added,
        normalizer=parts.sequence(_normalisers(found), "normalizers"),
        pre_tokenizer=parts.sequence(
            [parts.split(word, regex=False) for word in words], "pretokenizers"
        ),
        decoder=_decoder(found),
    )


def _looks_around(found: Pieces) -> bool:
    return found.add_dummy_prefix or found.remove_extra_whitespaces


def _normalisers(found: Pieces) -> list[Description]:
    listed: list[Description] = []
    if found.charsmap:
        charsmap = base64.b64encode(found.charsmap).decode("ascii")
        listed.append(
            {"type": "Precompiled", "precompiled_charsmap": charsmap, "longest_match": True}
        )
    if found.remove_extra_whitespaces:
        listed.append(parts.replace(r"\A +", "", regex=True))
        listed.append(parts.replace(rf"[ {SPACE}]+\z", "", regex=True))
        listed.append(parts.replace(" {2,}", " ", regex=True))
    if found.add_dummy_prefix:
        listed.append({"type": "Prepend", "prepend": SPACE})
    listed.append(parts.replace(" ", SPACE))
    return listed


def _decoder(found: Pieces) -> Description:
    decoders: list[Description] = [parts.replace(SPACE, " ")]
    if found.byte_fallback:
        decoders.append({"type": "ByteFallback"})
    decoders.append({"type": "Fuse"})
    if _looks_around(found):
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": decoders}


def _unigram(found: Pieces, unknown: int, float32: bool) -> Description:
    highest = max((s for s, kind in zip(found.scores, found.types, strict=True) if kind == NORMAL))
    # A symbol of the user wins over any division of it.
    vocab = [
        [piece, len(piece.encode()) * highest - 0.1 if kind == USER_DEFINED else score]
        for piece, score, kind in zip(found.pieces, found.scores, found.types, strict=True)
    ]
    return {
        "type": "Unigram",
        "unk_id": unknown,
        "vocab": vocab,
        "byte_fallback": found.byte_fallback,
        "float32": float32,
    }


def _bpe(found: Pieces, unknown: int) -> Description:
    vocab = {piece: id for id, piece in enumerate(found.pieces)}
    return parts.bpe(
        vocab,
        merges_of(found.pieces, found.scores, found.types),
        unk_token=found.pieces[unknown],
        fuse_unk=True,
        byte_fallback=found.byte_fallback,
    )


def merges_of(
    pieces: Sequence[str], scores: Sequence[float], types: Sequence[int]
) -> list[list[str]]:
    """The merges of SentencePiece's BPE: any two neighbours that are a normal piece together are
    merged, the piece with the highest score first.
    """
    usable = (NORMAL, USER_DEFINED)
    ids = {piece: id for id, piece in enumerate(pieces) if types[id] in usable}
    merges = []
    for id in sorted(ids.values(), key=lambda id: -scores[id]):
        piece = pieces[id]
        pairs = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        known = [pair for pair in pairs if pair[0] in ids and pair[1] in ids]
        known.sort(key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        merges += [list(pair) for pair in known]
    return merges
