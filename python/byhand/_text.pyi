"""Types of the native module _text (csrc/text): the parts of a tokenizer."""

import typing
from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]

class Normaliser: ...
class PreTokenizer: ...

class Model:
    def __len__(self) -> int: ...
    def token(self, id: int) -> bytes: ...
    def id_of(self, token: bytes) -> int: ...
    def encode_word(self, word: bytes) -> list[tuple[int, int, int]]: ...

AddedToken = tuple[bytes, int, bool, bool, bool, bool, bool]
"""Content, id, special, single_word, lstrip, rstrip, normalized."""

class WordCounts:
    def __init__(self) -> None: ...
    def __len__(self) -> int: ...
    def add(self, word: bytes, count: int = 1) -> None: ...
    def merge(self, other: WordCounts) -> None: ...
    def items(self) -> list[tuple[bytes, int]]: ...

class BPE(Model):
    def __init__(
        self,
        vocabulary: Sequence[bytes],
        merges: Sequence[tuple[bytes, bytes]] | None,
        *,
        unk: bytes | None = None,
        fuse_unk: bool = False,
        byte_fallback: bool = False,
        prefix: bytes = b"",
        suffix: bytes = b"",
        ignore_merges: bool = False,
        dropout: float = 0.0,
        seed: int = 0,
        byte_level: bool | None = None,
    ) -> None: ...
    @property
    def byte_level(self) -> bool: ...

def train_bpe(
    counts: WordCounts,
    vocabulary_size: int,
    *,
    min_frequency: int = 0,
    special_tokens: Sequence[bytes] = (),
    prefix: bytes = b"",
    suffix: bytes = b"",
    byte_level: bool = True,
    limit_alphabet: int | None = None,
    initial_alphabet: Sequence[str] = (),
    max_token_length: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> tuple[list[bytes], list[tuple[bytes, bytes]]]: ...

class Pipeline:
    def __init__(
        self,
        normalisers: list[Normaliser],
        pretokenizers: list[PreTokenizer],
        model: Model | None,
        added: list[AddedToken],
        piece_normalisers: list[Normaliser] = ...,
        cuts: int = 0,
    ) -> None: ...
    @property
    def cuts(self) -> int: ...
    def __len__(self) -> int: ...
    @overload
    def encode(
        self, text: str, allowed: list[int] | None, offsets: typing.Literal[False] = False
    ) -> Ids: ...
    @overload
    def encode(
        self, text: str, allowed: list[int] | None, offsets: typing.Literal[True]
    ) -> tuple[Ids, Ids]: ...
    @overload
    def encode(self, text: str, allowed: list[int] | None, offsets: bool) -> Any: ...
    def encode_batch(
        self, texts: Sequence[str], allowed: list[int] | None, threads: int = 1
    ) -> tuple[Ids, Ids]: ...
    def count_words(self, text: str | list[str], counts: WordCounts, threads: int = 1) -> None: ...
    def decode_bytes(self, ids: Ids) -> bytes: ...

def last_cut(text: str, cuts: int) -> int: ...

class Ends(PreTokenizer):
    def __init__(self, characters: list[str], *, at_start: bool) -> None: ...

# Normalisers and pre-tokenizers: csrc/text/normalise.h, charsmap.h and pretokenise.h.
class NormalForm(Normaliser):
    def __init__(self, form: str) -> None: ...

class LowerCase(Normaliser): ...

class Drop(Normaliser):
    def __init__(self, classes: str) -> None: ...

class BertNormaliser(Normaliser):
    def __init__(self, *, clean: bool, chinese: bool, accents: bool, lower: bool) -> None: ...

class Strip(Normaliser):
    def __init__(self, *, left: bool, right: bool) -> None: ...

class Replace(Normaliser):
    def __init__(self, matches: PreTokenizer, content: bytes) -> None: ...

class Prepend(Normaliser):
    def __init__(self, content: bytes, *, unless: bytes = ..., first: bool = False) -> None: ...

class Nmt(Normaliser): ...

class Precompiled(Normaliser):
    def __init__(self, charsmap: bytes, *, longest: bool) -> None: ...

class PerWord(Normaliser):
    def __init__(self, words: Sequence[PreTokenizer], each: Sequence[Normaliser]) -> None: ...

class Literal(PreTokenizer):
    def __init__(self, text: bytes) -> None: ...

class Characters(PreTokenizer):
    def __init__(self, classes: str, least: int = 0) -> None: ...

class Repeats(PreTokenizer):
    def __init__(self, character: bytes, least: int) -> None: ...

class WordRuns(PreTokenizer): ...
class BertWords(PreTokenizer): ...

class FixedLength(PreTokenizer):
    def __init__(self, length: int) -> None: ...

class Separator(PreTokenizer): ...

class Split(PreTokenizer):
    def __init__(self, matches: PreTokenizer, behaviour: str, invert: bool = False) -> None: ...

def named_pattern(name: str) -> PreTokenizer: ...
def callback(find: Callable[[str], list[tuple[int, int]]]) -> PreTokenizer: ...
def normalise(
    normalisers: Sequence[Normaliser], text: bytes, track: bool = False
) -> tuple[bytes, npt.NDArray[np.int64] | None]: ...
def split(pretokenizers: Sequence[PreTokenizer], text: bytes) -> npt.NDArray[np.int64]: ...
def nmt_nfkc_charsmap() -> bytes: ...

# WordPiece, WordLevel and Unigram: csrc/text/wordpiece.h, unigram.h, train_wordpiece.h and
# train_unigram.h. `special`: ids whose tokens no text becomes.
class WordPiece(Model):
    def __init__(
        self,
        vocabulary: Sequence[bytes],
        *,
        unk: bytes | None,
        prefix: bytes,
        max_characters: int,
        special: Sequence[int] = ...,
    ) -> None: ...

class WordLevel(Model):
    def __init__(
        self, vocabulary: Sequence[bytes], *, unk: bytes | None, special: Sequence[int] = ...
    ) -> None: ...

class UnigramSampler(Model): ...

class Unigram(Model):
    def __init__(
        self,
        vocabulary: Sequence[tuple[bytes, float]],
        *,
        unk_id: int | None,
        byte_fallback: bool,
        special: Sequence[int] = ...,
        float32: bool = False,
    ) -> None: ...
    def nbest(self, word: bytes, n: int) -> list[tuple[list[int], float]]: ...
    def sample(self, word: bytes, alpha: float, nbest: int, seed: int) -> list[int]: ...
    def sampling(self, alpha: float, nbest: int, seed: int) -> UnigramSampler: ...

def train_wordpiece(
    counts: WordCounts,
    vocabulary_size: int,
    *,
    special_tokens: Sequence[str] = ...,
    prefix: bytes = ...,
    score: str = "likelihood",
    min_frequency: int = 2,
    limit_alphabet: int | None = None,
    initial_alphabet: Sequence[str] = ...,
    max_token_length: int | None = None,
    max_characters: int = 100,
    progress: Callable[[int, int], object] | None = None,
) -> list[bytes]: ...
def train_unigram(
    counts: WordCounts,
    vocabulary_size: int,
    *,
    special_tokens: Sequence[str] = ...,
    byte_fallback: bool = False,
    character_coverage: float = 0.9995,
    initial_alphabet: Sequence[str] = ...,
    seed_size: int = 1000000,
    max_token_length: int = 16,
    shrinking: float = 0.75,
    em_steps: int = 2,
    threads: int = 1,
    progress: Callable[[int, int], object] | None = None,
) -> list[tuple[bytes, float]]: ...
