"""Small tokenizer files of every format, for tests."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from byhand.text.bytes_alphabet import ALPHABET, to_alphabet
from byhand.text.formats.sentencepiece import (
    BPE,
    BYTE,
    CONTROL,
    NORMAL,
    UNIGRAM,
    UNKNOWN,
    USER_DEFINED,
    Pieces,
)
from byhand.text.formats.sentencepiece_write import serialise

WORDS = ("he", "hel", "lo", "hello", " w", " wo", "or", " wor", " worl", " world", "ab", "aba")
MERGES = (("h", "e"), ("he", "l"), ("l", "o"), ("hel", "lo"), (" ", "w"), (" w", "o"), ("o", "r"),
          (" wo", "r"), (" wor", "l"), (" worl", "d"), ("a", "b"), ("ab", "a"))  # fmt: skip
END = "<|endoftext|>"


def gpt2_files(folder: Path) -> tuple[Path, Path]:
    """vocab.json and merges.txt of a byte-level BPE with 256 bytes and 12 merges."""
    tokens = [*ALPHABET, *(to_alphabet(word.encode()) for word in WORDS), END]
    vocab = folder / "vocab.json"
    vocab.write_text(json.dumps({token: id for id, token in enumerate(tokens)}))
    lines = [" ".join(to_alphabet(half.encode()) for half in merge) for merge in MERGES]
    merges = folder / "merges.txt"
    merges.write_text("\n".join(["#version: 0.2", *lines, ""]), encoding="utf-8")
    return vocab, merges


def tiktoken_file(folder: Path) -> Path:
    tokens = [*(bytes([b]) for b in range(256)), *(word.encode() for word in WORDS)]
    path = folder / "made.tiktoken"
    path.write_bytes(
        b"".join(base64.b64encode(token) + b" %d\n" % id for id, token in enumerate(tokens))
    )
    settings = {"pat_str": "gpt2", "special_tokens": {END: len(tokens)}}
    (folder / "made.tiktoken.json").write_text(json.dumps(settings))
    return path


def vocab_txt_file(folder: Path) -> Path:
    tokens = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *"abcdehlorw",
        *("##" + c for c in "abdelor"),
    ]
    tokens += ["hel", "##lo", "hello", "world"]
    path = folder / "vocab.txt"
    path.write_text("".join(token + "\n" for token in tokens))
    return path


def pieces(model_type: int = UNIGRAM, byte_fallback: bool = True) -> Pieces:
    """A small SentencePiece model."""
    found = Pieces(model_type=model_type, byte_fallback=byte_fallback)

    def add(piece: str, score: float, kind: int = NORMAL) -> None:
        found.pieces.append(piece)
        found.scores.append(score)
        found.types.append(kind)

    add("<unk>", 0.0, UNKNOWN)
    add("<s>", 0.0, CONTROL)
    add("</s>", 0.0, CONTROL)
    add("<sep>", 0.0, USER_DEFINED)
    if byte_fallback:
        for byte in range(256):
            add(f"<0x{byte:02X}>", 0.0, BYTE)
    words = ["he", "▁he", "ll", "llo", "▁hello", "▁w", "or", "▁wor", "ld", "▁world"]
    if model_type == UNIGRAM:
        words = ["▁hello", "▁world", "▁he", "llo", "▁wor", "ld"]
    for rank, piece in enumerate([*words, *"▁helowrdabc"]):
        add(piece, -float(rank))
    return found


def model_file(folder: Path, model_type: int = UNIGRAM) -> Path:
    path = folder / ("unigram.model" if model_type == UNIGRAM else "bpe.model")
    path.write_bytes(serialise(pieces(model_type)))
    return path


_TYPES = {"u1": 0, "i1": 1, "u2": 2, "i2": 3, "u4": 4, "i4": 5, "f4": 6, "b1": 7, "u8": 10,
          "i8": 11, "f8": 12}  # fmt: skip


def gguf_bytes(metadata: Mapping[str, Any], order: str = "<", version: int = 3) -> bytes:
    """A GGUF file without tensors."""

    def text(value: str) -> bytes:
        data = value.encode("utf-8", "surrogateescape")
        return struct.pack(order + "Q", len(data)) + data

    def typed(value: Any) -> tuple[int, bytes]:
        if isinstance(value, bool):
            return 7, struct.pack("?", value)
        if isinstance(value, int):
            return 4, struct.pack(order + "I", value)
        if isinstance(value, float):
            return 6, struct.pack(order + "f", value)
        if isinstance(value, str):
            return 8, text(value)
        if isinstance(value, np.ndarray):
            kind = _TYPES[value.dtype.str[1:]]
            data = value.astype(value.dtype.newbyteorder(order)).tobytes()
            return 9, struct.pack(order + "IQ", kind, len(value)) + data
        items = [typed(item) for item in value]
        kind = items[0][0]
        data = b"".join(data for _, data in items)
        return 9, struct.pack(order + "IQ", kind, len(items)) + data

    out = b"GGUF" + struct.pack(order + "IQQ", version, 0, len(metadata))
    for key, value in metadata.items():
        kind, data = typed(value)
        out += text(key) + struct.pack(order + "I", kind) + data
    return out


def gguf_metadata(kind: str) -> dict[str, Any]:
    """The metadata of a small tokenizer of one of llama.cpp's kinds."""
    found: dict[str, Any] = {"general.architecture": "test", "tokenizer.ggml.model": kind}
    if kind in ("llama", "t5"):
        made = pieces(BPE if kind == "llama" else UNIGRAM)
        tokens, types = made.pieces, made.types
        found["tokenizer.ggml.scores"] = np.array(made.scores, "f4")
        found["tokenizer.ggml.bos_token_id"] = 1
        found["tokenizer.ggml.eos_token_id"] = 2
        found["tokenizer.ggml.unknown_token_id"] = 0
        if kind == "t5":
            found["tokenizer.ggml.add_space_prefix"] = True
    elif kind == "gpt2":
        tokens = [*ALPHABET, *(to_alphabet(word.encode()) for word in WORDS), END]
        types = [NORMAL] * (len(tokens) - 1) + [CONTROL]
        found["tokenizer.ggml.pre"] = "gpt-2"
        found["tokenizer.ggml.merges"] = [
            " ".join(to_alphabet(half.encode()) for half in merge) for merge in MERGES
        ]
        found["tokenizer.ggml.bos_token_id"] = len(tokens) - 1
    else:
        words = [*"abcdehlorw", "hello", "world"]
        tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *("▁" + word for word in words)]
        tokens += [*"adelo", "lo"]
        types = [CONTROL] * 5 + [NORMAL] * (len(tokens) - 5)
        found["tokenizer.ggml.unknown_token_id"] = 1
    found["tokenizer.ggml.tokens"] = list(tokens)
    found["tokenizer.ggml.token_type"] = np.array(types, "i4")
    return found


GGUF_KINDS = ("llama", "gpt2", "bert", "t5")


def gguf_file(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.gguf"
    path.write_bytes(gguf_bytes(gguf_metadata(kind)))
    return path


def all_files(folder: Path) -> list[Path]:
    """A file of every format."""
    return [
        *gpt2_files(folder),
        tiktoken_file(folder),
        vocab_txt_file(folder),
        model_file(folder, UNIGRAM),
        model_file(folder, BPE),
        *(gguf_file(folder, kind) for kind in GGUF_KINDS),
    ]
