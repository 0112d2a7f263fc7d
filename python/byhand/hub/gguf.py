"""The metadata of GGUF files, in which llama.cpp keeps a model and its tokenizer
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).

A file is: "GGUF", the version, the number of tensors and of metadata, the metadata (a key, a type
and a value each), the descriptions of the tensors, and the tensors.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from byhand.errors import UserError

_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
# The numbers' types: their dtype without the order of bytes.
_NUMBERS = {0: "u1", 1: "i1", 2: "u2", 3: "i2", 4: "u4", 5: "i4", 6: "f4", 7: "?"}
_NUMBERS |= {10: "u8", 11: "i8", 12: "f8"}
_LONGEST_KEY = 1 << 16  # bytes; the specification's limit
_DEEPEST = 4  # arrays in arrays


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata of a GGUF file: numbers, bools, str, numpy arrays of numbers, and lists of str
    or of arrays, by key. The tensors are not read.

    A str whose bytes are not UTF-8, as tokens may be, has surrogates in their place
    (`errors="surrogateescape"`). UserError if the file is not GGUF, is damaged, or of a version
    other than 2 and 3.
    """
    try:
        with open(path, "rb") as file:
            return _Reader(file, os.fstat(file.fileno()).st_size).metadata()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


class _Reader:
    """Reads values in the order of the file. No size that the file claims is trusted before it was
    compared with the bytes that are left.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file = file
        self.left = size
        self.order = "<"

    def metadata(self) -> dict[str, Any]:
        if self.left < 24 or self.take(4) != b"GGUF":
            raise UserError("it is not a GGUF file")
        version = self.take(4)
        number = int.from_bytes(version, "little")
        if number not in _VERSIONS:
            if int.from_bytes(version, "big") not in _VERSIONS:
                raise UserError(f"it is in version {number} of GGUF; versions 2 and 3 can be read")
            self.order = ">"
        self.number("u8")  # how many tensors
        count = self.number("u8")
        # A key, its length, a type and a value take 13 bytes or more.
        if count > self.left // 13:
            raise UserError(f"it is cut off: it claims {count} entries in {self.left} bytes")
        found: dict[str, Any] = {}
        for _ in range(count):
            key = self.text(_LONGEST_KEY)
            if key in found:
                raise UserError(f"the key {key!r} is there twice")
            found[key] = self.value(self.number("u4"), 0)
        return found

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise UserError(f"it is cut off: {size} bytes were expected, {self.left} are left")
        self.left -= size
        data = self.file.read(size)
        if len(data) != size:
            raise UserError("it became shorter while it was read")
        return data

    def number(self, dtype: str) -> Any:
        return self.numbers(dtype, 1)[0].item()

    def numbers(self, dtype: str, count: int) -> np.ndarray:
        kind = np.dtype(self.order + dtype)
        data = self.take(count * kind.itemsize)
        if dtype == "?":
            return np.frombuffer(data, np.uint8) != 0
        return np.frombuffer(data, kind).astype(kind.newbyteorder("="), copy=False)

    def text(self, longest: int | None = None) -> str:
        size = self.number("u8")
        if longest is not None and size > longest:
            raise UserError(f"a key claims to have {size} bytes")
        return self.take(size).decode("utf-8", "surrogateescape")

    def value(self, kind: int, depth: int) -> Any:
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise UserError(f"a value is of the unknown type {kind}")
        if depth == _DEEPEST:
            raise UserError(f"arrays are nested more than {_DEEPEST} deep")
        inner, count = self.number("u4"), self.number("u8")
        if inner in _NUMBERS:
            return self.numbers(_NUMBERS[inner], count)
        # A string takes 8 bytes or more, an array 12.
        if count > self.left // (8 if inner == _STRING else 12):
            raise UserError(f"it is cut off: an array claims {count} items in {self.left} bytes")
        if inner == _STRING:
            return self.texts(count)
        return [self.value(inner, depth + 1) for _ in range(count)]

    def texts(self, count: int) -> list[str]:
        """`count` strings, without a call for each part: a vocabulary has hundreds of thousands."""
        length = struct.Struct(self.order + "Q")
        read, left, found = self.file.read, self.left, []
        for _ in range(count):
            left -= 8
            (size,) = length.unpack(read(8)) if left >= 0 else (0,)
            left -= size
            if left < 0:
                raise UserError("it is cut off within an array of strings")
            found.append(read(size).decode("utf-8", "surrogateescape"))
        self.left = left
        return found
