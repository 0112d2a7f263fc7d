"""Types of the native module _text (csrc/text): the parts of a tokenizer."""

from collections.abc import Sequence
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]

class Normaliser: ...
class PreTokenizer: ...

class Model:
    def __len__(self) -> int: ...
    def token(self, id: int) -> bytes: ...
    def id_of(self, token: bytes) -> int: ...

AddedToken = tuple[bytes, int, bool, bool, bool, bool, bool]
"""Content, id, special, single_word, lstrip, rstrip, normalized."""

class Pipeline:
    def __init__(
        self,
        normalisers: list[Normaliser],
        pretokenizers: list[PreTokenizer],
        model: Model | None,
        added: list[AddedToken],
        piece_normalisers: list[Normaliser] = ...,
        can_cut: bool = False,
    ) -> None: ...
    @property
    def can_cut(self) -> bool: ...
    def __len__(self) -> int: ...
    @overload
    def encode(
        self, text: str, allowed: list[int] | None, offsets: Literal[False] = False
    ) -> Ids: ...
    @overload
    def encode(
        self, text: str, allowed: list[int] | None, offsets: Literal[True]
    ) -> tuple[Ids, Ids]: ...
    @overload
    def encode(self, text: str, allowed: list[int] | None, offsets: bool) -> Any: ...
    def encode_batch(
        self, texts: Sequence[str], allowed: list[int] | None, threads: int = 1
    ) -> tuple[Ids, Ids]: ...
    def count_words(
        self, text: str | list[str], counts: WordCounts, threads: int = 1
    ) -> None: ...
    def decode_bytes(self, ids: Ids) -> bytes: ...

def last_cut(text: str) -> int: ...
