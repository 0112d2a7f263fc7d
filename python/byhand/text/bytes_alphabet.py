"""The alphabet in which files of byte-level vocabularies write bytes as printable characters.

GPT-2's vocabulary writes a byte that is a printable, non-blank Latin-1 character as that character,
and the other 68 bytes, in their order, as U+0100 and the characters after it: a space is "Ġ".
"""

from __future__ import annotations

from byhand.errors import UserError


def _alphabet() -> str:
    """The character of each byte, at the index that is the byte."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return "".join(chr(b if b in printable else next(others)) for b in range(256))


ALPHABET = _alphabet()
_BYTE_OF = {ord(character): chr(b) for b, character in enumerate(ALPHABET)}
_KNOWN = frozenset(ALPHABET)
_CHARACTER_OF = dict(enumerate(ALPHABET))


def is_alphabet(token: str) -> bool:
    """True if every character of `token` stands for a byte."""
    return _KNOWN.issuperset(token)


def to_bytes(token: str) -> bytes:
    """The bytes that a token of a byte-level vocabulary stands for. UserError if it has a character
    that is not in the alphabet.
    """
    if not is_alphabet(token):
        wrong = next(c for c in token if c not in _KNOWN)
        raise UserError(
            f"the token {token!r} of a byte-level vocabulary has the character {wrong!r}, which "
            "stands for no byte"
        )
    return token.translate(_BYTE_OF).encode("latin-1")


def to_alphabet(data: bytes) -> str:
    """The printable characters that stand for `data` in a byte-level vocabulary."""
    return data.decode("latin-1").translate(_CHARACTER_OF)
