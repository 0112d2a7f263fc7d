"""Protocol buffers' wire format, read and written field by field
(https://protobuf.dev/programming-guides/encoding/).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from byhand.errors import UserError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def fields(data: memoryview) -> Iterator[tuple[int, int, int | float | memoryview]]:
    """The fields of a message in their order: number, wire type and value. A varint is an unsigned
    int, a fixed 32-bit value a float. UserError if the message is truncated or damaged.
    """
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        value: int | float | memoryview
        if number == 0:
            raise UserError("a field has the number 0")
        if wire == VARINT:
            value, at = _varint(data, at)
        elif wire in (FIXED32, FIXED64):
            size = 4 if wire == FIXED32 else 8
            if at + size > len(data):
                raise UserError("the last field is cut off")
            value = struct.unpack_from("<f" if wire == FIXED32 else "<Q", data, at)[0]
            at += size
        elif wire == BYTES:
            size, at = _varint(data, at)
            if size > len(data) - at:
                raise UserError(f"a field of {size} bytes is cut off after {len(data) - at}")
            value, at = data[at : at + size], at + size
        else:
            raise UserError(f"a field has the wire type {wire}, which does not exist")
        yield number, wire, value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """The number that begins at byte `at`, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise UserError("the last number is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, at
    raise UserError("a number has more than ten bytes")


def varint_field(number: int, value: int) -> bytes:
    """A field with a whole number; a negative one is written in two's complement."""
    return _encoded(number << 3 | VARINT) + _encoded(value & (1 << 64) - 1)


def bytes_field(number: int, value: bytes) -> bytes:
    return _encoded(number << 3 | BYTES) + _encoded(len(value)) + value


def float_field(number: int, value: float) -> bytes:
    return _encoded(number << 3 | FIXED32) + struct.pack("<f", value)


def _encoded(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
