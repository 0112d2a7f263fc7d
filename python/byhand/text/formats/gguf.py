"""The tokenizer in the metadata of a GGUF file, of llama.cpp's kinds: SPM ("llama"), byte-level BPE
("gpt2"), WordPiece ("bert"), Unigram ("t5"), and the BPE of Gemma 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from byhand.errors import UserError
from byhand.hub.gguf import read_metadata
from byhand.text.bytes_alphabet import is_alphabet
from byhand.text.description import Description
from byhand.text.formats import parts, sentencepiece, vocab_txt
from byhand.text.formats.gguf_patterns import words_named
from byhand.text.formats.sentencepiece import (
    BPE,
    BYTE,
    CONTROL,
    NORMAL,
    SPACE,
    UNIGRAM,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Pieces,
)

_KEYS = "tokenizer.ggml."


def read(path: Path) -> Description:
    """The description of the tokenizer in a GGUF file. UserError if the file is damaged or its
    tokenizer is of a kind that is not supported.
    """
    metadata = read_metadata(path)
    try:
        return describe(metadata)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def describe(metadata: Mapping[str, Any]) -> Description:
    """The description of the tokenizer in the metadata of a GGUF file."""
    found = _Vocabulary(metadata)
    kind = found.text("model")
    if kind is None:
        raise UserError("it has no tokenizer")
    makers = {"llama": _spm, "gpt2": _byte_level, "bert": _wordpiece, "t5": _ugm, "gemma4": _gemma4}
    if kind not in makers:
        known = ", ".join(makers)
        raise UserError(
            f"its tokenizer is of the kind {kind!r}, which is not supported yet: {known}"
        )
    return makers[kind](found)


class _Vocabulary:
    """The metadata of a tokenizer, with their types checked."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self.metadata = metadata
        tokens = metadata.get(_KEYS + "tokens", [])
        if not isinstance(tokens, list) or not tokens or not isinstance(tokens[0], str):
            raise UserError("its tokenizer has no tokens")
        # llama.cpp names tokens without text in this way.
        self.tokens = [token or f"[EMPTY_{id}]" for id, token in enumerate(tokens)]
        self.types = self.array("token_type", NORMAL, "iu")
        self.scores = self.array("scores", 0.0, "f")
        self.ids: dict[str, int] = {}
        for id, token in enumerate(self.tokens):
            if self.ids.setdefault(token, id) != id:
                raise UserError(f"the tokens {self.ids[token]} and {id} are both {token!r}")
            try:
                token.encode("utf-8")
            except UnicodeEncodeError:
                raise UserError(f"token {id} is not UTF-8") from None

    def array(self, name: str, default: float, kinds: str) -> list[Any]:
        """A value for each token."""
        found = self.metadata.get(_KEYS + name)
        if found is None:
            return [default] * len(self.tokens)
        if not isinstance(found, np.ndarray) or found.dtype.kind not in kinds:
            raise UserError(f"its {_KEYS}{name} is not an array of numbers of the right kind")
        if len(found) != len(self.tokens):
            raise UserError(
                f"its {_KEYS}{name} has {len(found)} items for {len(self.tokens)} tokens"
            )
        if found.dtype.kind == "f" and not np.isfinite(found).all():
            raise UserError(f"its {_KEYS}{name} has a number that is not finite")
        listed: list[Any] = found.tolist()
        return listed

    def text(self, name: str) -> str | None:
        return self._typed(name, str, "a text")

    def flag(self, name: str, default: bool) -> bool:
        found = self._typed(name, bool, "true or false")
        return default if found is None else found

    def token(self, name: str) -> str | None:
        """The token whose id is under `name`."""
        id = self._typed(name + "_token_id", int, "an id")
        if id is None:
            return None
        if not 0 <= id < len(self.tokens):
            raise UserError(
                f"its {_KEYS}{name}_token_id is {id}, beyond the {len(self.tokens)} tokens"
            )
        return self.tokens[id]

    def _typed(self, name: str, kind: type, described: str) -> Any:
        found = self.metadata.get(_KEYS + name)
        if found is not None and type(found) is not kind:
            raise UserError(f"its {_KEYS}{name} is not {described}")
        return found

    def added(self) -> list[Description]:
        """The tokens that are cut out of a text before all else: those of the user always, control
        tokens where they are allowed.
        """
        special = {CONTROL: True, UNKNOWN: True, USER_DEFINED: False}
        return [
            parts.added_token(id, token, special=special[self.types[id]])
            for id, token in enumerate(self.tokens)
            if self.types[id] in special
        ]

    def template(self, add_bos: bool, add_eos: bool, end: str = "eos") -> Description | None:
        """The post-processor that adds the tokens of the beginning and the end."""
        before = self.token("bos") if self.flag("add_bos_token", add_bos) else None
        after = self.token(end) if self.flag(f"add_{end}_token", add_eos) else None
        if before is None and after is None:
            return None
        first, last = ([] if token is None else [token] for token in (before, after))
        return parts.template(first, last, self.ids)

    def pieces(self, model_type: int) -> Pieces:
        return Pieces(self.tokens, self.scores, self.types, model_type)

    def merges(self) -> list[list[str]]:
        listed = self.metadata.get(_KEYS + "merges")
        if not isinstance(listed, list) or not all(isinstance(merge, str) for merge in listed):
            raise UserError("its tokenizer has no merges")
        merges = []
        for number, merge in enumerate(listed):
            # The first token may begin with the space that divides the two.
            at = merge.find(" ", 1)
            left, right = merge[:at], merge[at + 1 :]
            known = left in self.ids and right in self.ids and left + right in self.ids
            if at < 0 or not known:
                raise UserError(f"merge {number}, {merge!r}, is not two tokens that make a third")
            merges.append([left, right])
        return merges


def _spm(found: _Vocabulary) -> Description:
    pieces = found.pieces(BPE)
    pieces.types = [NORMAL if kind == UNUSED else kind for kind in pieces.types]
    pieces.byte_fallback = BYTE in pieces.types
    pieces.add_dummy_prefix = found.flag("add_space_prefix", True)
    pieces.remove_extra_whitespaces = False
    return _with_pieces(found, pieces, found.template(True, False))


def _ugm(found: _Vocabulary) -> Description:
    pieces = found.pieces(UNIGRAM)
    pieces.types = [NORMAL if kind == UNUSED else kind for kind in pieces.types]
    pieces.add_dummy_prefix = found.flag("add_space_prefix", False)
    pieces.remove_extra_whitespaces = found.flag("remove_extra_whitespaces", False)
    charsmap = found.metadata.get(_KEYS + "precompiled_charsmap")
    if charsmap is not None:
        if not isinstance(charsmap, np.ndarray) or charsmap.dtype.itemsize != 1:
            raise UserError(f"its {_KEYS}precompiled_charsmap is not an array of bytes")
        pieces.charsmap = charsmap.tobytes()
    return _with_pieces(found, pieces, found.template(False, True))


def _with_pieces(found: _Vocabulary, pieces: Pieces, template: Description | None) -> Description:
    # Tokens that are not in use have this type too.
    unknown = found.token("unknown") or found.tokens[0]
    pieces.types = [CONTROL if kind == UNKNOWN else kind for kind in pieces.types]
    pieces.types[found.ids[unknown]] = UNKNOWN
    description = sentencepiece.describe(pieces, cut_first=True)
    return {**description, "post_processor": template}


def _byte_level(found: _Vocabulary) -> Description:
    words = words_named(found.text("pre") or "default")
    added = found.added()
    known = {token["content"] for token in added}
    # Such a token is not written byte by byte: no text becomes it unless it is cut out.
    added += [
        parts.added_token(id, token)
        for token, id in found.ids.items()
        if not is_alphabet(token) and token not in known
    ]
    end = "sep" if words.add_sep else "eos"
    return parts.description(
        parts.bpe(found.ids, found.merges(), ignore_merges=words.ignore_merges),
        added=added,
        pre_tokenizer=parts.byte_level_words(words.patterns),
        post_processor=found.template(words.add_bos, words.add_sep, end),
        decoder=parts.BYTE_DECODER,
    )


def _wordpiece(found: _Vocabulary) -> Description:
    """In GGUF the first piece of a word begins with "▁", in vocab.txt the others with "##"."""
    vocab: dict[str, int] = {}
    special = {found.token(name) for name in ("unknown", "seperator", "padding", "cls", "mask")}
    for token, id in found.ids.items():
        control = found.types[id] != NORMAL or token in special
        if token.startswith(SPACE) and token != SPACE:
            name = token[len(SPACE) :]
        else:
            name = token if control else vocab_txt.PREFIX + token
        if vocab.setdefault(name, id) != id:
            raise UserError(f"the tokens {vocab[name]} and {id} are both {name!r}")
    if "[UNK]" not in vocab:
        raise UserError("its tokenizer has no token [UNK]")
    lower = found.flag("normalizer.lowercase", True)
    accents = found.flag("normalizer.strip_accents", True)
    settings = {"do_lower_case": lower, "strip_accents": accents}
    return vocab_txt.describe(vocab, settings)


def _gemma4(found: _Vocabulary) -> Description:
    unknown = found.token("unknown")
    return parts.description(
        parts.bpe(found.ids, found.merges(), unk_token=unknown, fuse_unk=True, byte_fallback=True),
        added=found.added(),
        normalizer=parts.replace(" ", SPACE),
        pre_tokenizer=parts.split(r"[^\n]+|[\n]+"),
        post_processor=found.template(True, False),
        decoder={
            "type": "Sequence",
            "decoders": [parts.replace(SPACE, " "), {"type": "ByteFallback"}, {"type": "Fuse"}],
        },
    )
