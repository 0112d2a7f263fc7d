"""Tokenizers made of parts: normalisers, pre-tokenizers, a model, a post-processor, a decoder.

    text -> added tokens are cut out -> normalised -> words -> tokens -> special tokens around them

A tokenizer is described in the form of Hugging Face's tokenizer.json, and gives the ids that the
library `tokenizers` gives, with one difference: a text that spells a special token, such as
"<|endoftext|>", is ordinary text unless the call allows it (`allowed_special`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from byhand import _text
from byhand.errors import UserError, suggestion
from byhand.text import decode, models, normalise, pretokenise, special, stream, tokenizer
from byhand.text.batch import padded, pair_lengths, truncated
from byhand.text.bytes_alphabet import is_alphabet
from byhand.text.components import flatten
from byhand.text.description import KINDS, Description, checked, vocabulary

Ids = npt.NDArray[np.int64]
Self = TypeVar("Self", bound="PipelineTokenizer")


class PipelineTokenizer(tokenizer.Tokenizer):
    """A tokenizer made of the parts that a description names.

    Attributes:
        description: the parts, in the form of tokenizer.json. "truncation" and "padding" are kept,
            and used by `encode_batch` where its arguments leave them open.
        byte_level: whether the tokens are any bytes, and every text can be encoded.
        pad_token, unk_token, cls_token, sep_token, mask_token, bos_token, eos_token: special tokens
            by what they are for, None if there is none; pad_token_id and so on: their ids. A
            description does not say what a token is for: they are found by the names that are
            usual ("[PAD]", "<pad>", ...).
    """

    kind = ""

    def __init__(self, description: object, *, seed: int = 0) -> None:
        """The tokenizer that `description` describes.

        Args:
            description: a dict in the form of tokenizer.json.
            seed: for a model that draws its tokens (BPE with dropout).

        UserError says what is wrong with the description.
        """
        try:
            self._build(checked(description), seed)
        except RecursionError:
            raise UserError("the description of the tokenizer is nested too deeply") from None

    def _build(self, description: Description, seed: int) -> None:
        model = description["model"]
        kind = KINDS[model["type"]]
        if self.kind not in ("", kind):
            raise UserError(f"the description is that of a {kind} tokenizer, not of {self.kind}")
        self.description = description
        self._seed = seed
        before = flatten(description["normalizer"], "normalizer")
        splits = flatten(description["pre_tokenizer"], "pre_tokenizer")
        self.byte_level = any(part["type"] == "ByteLevel" for part in (*before, *splits))

        added = description["added_tokens"]
        self._special = {t["content"]: t["id"] for t in added if t["special"]}
        self._texts: list[str] = vocabulary(model)
        self._ids = {text: id for id, text in enumerate(self._texts) if text}
        for token in added:
            self._texts.extend([""] * (token["id"] + 1 - len(self._texts)))
            self._texts[token["id"]] = token["content"]
            self._ids[token["content"]] = token["id"]
        if not self._ids:
            raise UserError("the vocabulary of the tokenizer is empty")

        self._model = models.make(model, self.byte_level, special=self._special.values(), seed=seed)
        piece_normalisers, splitters = pretokenise.make(description["pre_tokenizer"])
        try:
            self._pipeline = _text.Pipeline(
                normalise.make(description["normalizer"]),
                splitters,
                self._model,
                [_native(token) for token in added],
                piece_normalisers=piece_normalisers,
                cuts=stream.cuts(before, splits, added),
            )
        except ValueError as error:
            raise UserError(str(error)) from None
        self._decoder = decode.make(description["decoder"])
        # In a byte-level vocabulary, tokens that stand for no bytes: they are decoded as texts.
        self._wordy = {
            id
            for id, text in enumerate(self._texts[: len(self._model)])
            if self.byte_level and not is_alphabet(text)
        } - {token["id"] for token in added}
        self._post = special.make(description["post_processor"], len(self))
        unk = model.get("unk_token")
        if model["type"] == "Unigram" and model["unk_id"] is not None:
            unk = self._texts[model["unk_id"]]
        roles = special.roles(self._ids, unk, self._post)
        for role, name in roles.items():
            setattr(self, f"{role}_token", name)
            setattr(self, f"{role}_token_id", None if name is None else self._ids.get(name))

    pad_token: str | None
    unk_token: str | None
    cls_token: str | None
    sep_token: str | None
    mask_token: str | None
    bos_token: str | None
    eos_token: str | None
    pad_token_id: int | None
    unk_token_id: int | None
    cls_token_id: int | None
    sep_token_id: int | None
    mask_token_id: int | None
    bos_token_id: int | None
    eos_token_id: int | None

    # --- Encoding --------------------------------------------------------------------------------

    def encode(
        self,
        text: str,
        add_special_tokens: bool = True,
        allowed_special: str | Iterable[str] = (),
    ) -> Ids:
        """The ids of `text`, int64 of shape (n,).

        Args:
            text: any str without lone surrogates.
            add_special_tokens: whether the post-processor puts its special tokens around the text.
            allowed_special: the special tokens that the text may spell; "all" for all of them.
                Others are encoded as ordinary text.

        UserError if the text is wrong or has a part that the model cannot encode.
        """
        ids = self._encode(text, allowed_special, offsets=False)
        return self._around([ids], add_special_tokens)[0]

    def encode_pair(
        self,
        first: str,
        second: str,
        add_special_tokens: bool = True,
        allowed_special: str | Iterable[str] = (),
        max_length: int | None = None,
    ) -> tuple[Ids, Ids]:
        """The ids of two texts in one sequence, such as [CLS] A [SEP] B [SEP], int64 (n,), and the
        segment of each, int64 (n,). With `max_length`, tokens are taken from the end of the longer
        text until all fit.
        """
        both = [self._encode(text, allowed_special, offsets=False) for text in (first, second)]
        if max_length is not None:
            most = self._most_tokens(max_length, 2, add_special_tokens)
            kept = pair_lengths(len(both[0]), len(both[1]), most)
            both = [ids[:n] for ids, n in zip(both, kept, strict=True)]
        return self._around(both, add_special_tokens)

    def encode_batch(
        self,
        texts: Sequence[str],
        padding: bool | str = False,
        max_length: int | None = None,
        truncation: bool = False,
        threads: int | None = None,
        add_special_tokens: bool = True,
        allowed_special: str | Iterable[str] = (),
    ) -> list[Ids] | tuple[Ids, Ids]:
        """The ids of many texts, encoded on several threads.

        Args:
            texts: a list of str.
            padding: True pads to the longest text, "max_length" to `max_length`, with the pad
                token, on the side that the description's "padding" names (default: the right).
            max_length: the number of tokens with special ones. Default: that of the description's
                "truncation".
            truncation: whether longer texts are cut to `max_length`: their end is dropped, unless
                the description's "truncation" says their beginning.
            threads: default: `byhand.get_num_threads()`.

        Returns a list of int64 arrays (n,); with padding the ids, int64 (len(texts), n), and the
        lengths before padding, int64 (len(texts),).
        """
        if isinstance(texts, str) or not isinstance(texts, Sequence):
            raise UserError(f"encode_batch takes a list of texts, not {type(texts).__name__}")
        if padding not in (False, True, "max_length"):
            raise UserError(f'padding is False, True or "max_length", not {padding!r}')
        cut = self.description["truncation"] or {}
        if max_length is None:
            max_length = cut.get("max_length")
        if max_length is None and (truncation or padding == "max_length"):
            raise UserError("max_length is missing: it says how long the sequences may be")
        most = 0 if max_length is None else self._most_tokens(max_length, 1, add_special_tokens)
        rows = self._encode_rows(texts, threads, allowed_special)
        if truncation:
            rows = [truncated(row, most, cut.get("direction", "Right")) for row in rows]
        if add_special_tokens:
            rows = self._post.around_each(rows)
        if padding is False:
            return rows
        settings = self.description["padding"] or {}
        pad = settings.get("pad_id", self.pad_token_id)
        if pad is None:
            raise UserError("this tokenizer has no pad token: add one, such as [PAD]")
        length = max_length if padding == "max_length" else None
        return padded(rows, pad, length, settings.get("direction", "Right"))

    def tokenize(
        self,
        text: str,
        add_special_tokens: bool = False,
        allowed_special: str | Iterable[str] = (),
    ) -> list[str]:
        """The tokens of `text`, written as in the vocabulary: a space is "Ġ" if it is of bytes."""
        ids = self.encode(text, add_special_tokens, allowed_special)
        return [self._texts[id] for id in ids.tolist()]

    def offsets(
        self,
        text: str,
        add_special_tokens: bool = True,
        allowed_special: str | Iterable[str] = (),
    ) -> Ids:
        """Where the tokens of `encode`, called with the same arguments, come from: int64 (n, 2),
        text[begin:end] for each. A token that the post-processor adds has (0, 0).
        """
        ids, offsets = self._encode(text, allowed_special, offsets=True)
        for keep_first in self._post.trims:
            special.trim([self._texts[id] for id in ids.tolist()], offsets, keep_first)
        none = np.zeros((0, 2), np.int64)
        parts = self._post.apply(
            [offsets], add_special_tokens, lambda ids: np.zeros((len(ids), 2), np.int64)
        )
        return np.concatenate([none, *(part for part, _ in parts)])

    def encode_blocks(
        self, blocks: Iterable[str], characters: int
    ) -> npt.NDArray[np.unsignedinteger]:
        """See `Tokenizer`. No special tokens are added. The text is divided between words, where
        that cannot change the ids, and encoded on several threads; the memory is that of the ids
        and a few blocks. Where it could change them, the whole text is in memory.
        """
        ids = [np.zeros(0, tokenizer.id_dtype(len(self)))]
        seen = 0
        for texts in stream.groups(stream.checked(blocks), self._pipeline.cuts):
            seen += sum(map(len, texts))
            flat, _ = self._batch(texts, None, ())
            ids.append(flat.astype(ids[0].dtype))
        if seen != characters:
            raise ValueError(f"the blocks do not have {characters} characters in all")
        return np.concatenate(ids)

    def _encode(self, text: str, allowed_special: str | Iterable[str], offsets: bool) -> Any:
        if not isinstance(text, str):
            raise UserError(f"a text must be a str, not {type(text).__name__}")
        try:
            return self._pipeline.encode(text, self._allowed(allowed_special), offsets)
        except ValueError as error:
            raise UserError(str(error)) from None

    def _batch(
        self, texts: Sequence[str], threads: int | None, allowed_special: str | Iterable[str]
    ) -> tuple[Ids, Ids]:
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise UserError(f"text {number} must be a str, not {type(text).__name__}")
        try:
            return self._pipeline.encode_batch(
                texts, self._allowed(allowed_special), stream.threads(threads)
            )
        except ValueError as error:
            raise UserError(str(error)) from None

    def _encode_rows(
        self, texts: Sequence[str], threads: int | None, allowed_special: str | Iterable[str]
    ) -> list[Ids]:
        flat, begins = self._batch(texts, threads, allowed_special)
        return [flat[begin:end] for begin, end in pairwise(begins.tolist())]

    def _around(self, texts: list[Ids], add_special_tokens: bool) -> tuple[Ids, Ids]:
        """The tokens of one or two texts as the post-processor orders them, and their segments."""
        parts = self._post.apply(
            texts, add_special_tokens, lambda ids: np.array(ids, dtype=np.int64)
        )
        ids = parts[0][0] if len(parts) == 1 else np.concatenate([part for part, _ in parts])
        lengths = [len(part) for part, _ in parts]
        return ids, np.repeat(np.array([segment for _, segment in parts], np.int64), lengths)

    def _most_tokens(self, max_length: int, texts: int, add_special_tokens: bool) -> int:
        """How many tokens one text or two may have beside the special ones that are added."""
        added = self._post.added(texts) if add_special_tokens else 0
        if not isinstance(max_length, int | np.integer) or max_length < added:
            raise UserError(
                f"max_length is a whole number of at least {added}, the special tokens that are "
                f"added, not {max_length!r}"
            )
        return int(max_length) - added

    def _allowed(self, allowed_special: str | Iterable[str]) -> list[int] | None:
        if allowed_special == "all":
            return None
        if not isinstance(allowed_special, Iterable):
            raise UserError(
                f'allowed_special is "all" or a list of tokens, not {allowed_special!r:.60}'
            )
        names = [allowed_special] if isinstance(allowed_special, str) else list(allowed_special)
        for name in names:
            if not isinstance(name, str) or name not in self._special:
                near = suggestion(name, self._special)
                raise UserError(f"allowed_special: there is no special token {name!r}{near}")
        return [self._special[name] for name in names]

    # --- Decoding --------------------------------------------------------------------------------

    def decode(self, ids: npt.ArrayLike, skip_special_tokens: bool = True) -> str:
        """The text of `ids`, any sequence of integers. Bytes that are not UTF-8 become U+FFFD.
        UserError on an id out of range.
        """
        array = tokenizer.checked_ids(ids, len(self))
        if skip_special_tokens and self._special:
            array = array[~np.isin(array, self._special_ids)]
        listed = array.tolist()
        if self._decoder.joins_bytes and self.byte_level and self._wordy.isdisjoint(listed):
            return self._pipeline.decode_bytes(array).decode("utf-8", "replace")
        return self._decoder.decode([text for id in listed if (text := self._texts[id])])

    def stream(self, skip_special_tokens: bool = True) -> stream.Decoding:
        """Decodes ids that come one after the other, as in generation."""
        skipped = set(self._special.values()) if skip_special_tokens else set()

        def waits(ids: Sequence[int]) -> bool:
            shown = (self._texts[id] for id in reversed(ids) if id not in skipped)
            return self._decoder.joins_runs(next(filter(None, shown), ""))

        return stream.Decoding(lambda ids: self.decode(ids, skip_special_tokens), waits)

    @cached_property
    def _special_ids(self) -> Ids:
        return np.array(sorted(self._special.values()), np.int64)

    # --- The vocabulary --------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._texts)

    @property
    def vocabulary_size(self) -> int:
        return len(self)

    @property
    def special_tokens(self) -> dict[str, int]:
        """The special tokens with their ids."""
        return dict(self._special)

    def token_to_id(self, token: str) -> int | None:
        """The id of a token, written as in the vocabulary; None if there is none."""
        if not isinstance(token, str):
            raise UserError(f"a token is a str, not {token!r:.60}")
        return self._ids.get(token)

    def id_to_token(self, id: int) -> str | None:
        """The token with this id; None if there is none."""
        if not isinstance(id, int | np.integer):
            raise UserError(f"a token id is a whole number, not {id!r:.60}")
        return (self._texts[id] or None) if 0 <= id < len(self) else None

    @cached_property
    def start(self) -> str:  # type: ignore[override]
        """The prompt used when none is given: a newline if it has tokens of its own, else the first
        token that is text.
        """
        for text in ("\n", *map(self._decoder.decode, ([t] for t in self._texts if t))):
            ids = self.encode(text, add_special_tokens=False)
            if len(ids) and self.unk_token_id not in ids:
                return text
        return "\n"

    # --- Keeping it ------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """{"kind": ..., and the description}."""
        return {"kind": KINDS[self.description["model"]["type"]], **self.description}

    @classmethod
    def from_dict(cls: type[Self], data: object) -> Self:
        """The tokenizer that `to_dict` described. UserError if `data` is anything else."""
        if not isinstance(data, dict) or "kind" not in data:
            raise UserError("the tokenizer's description does not say of which kind it is")
        if data["kind"] not in (cls.kind or data["kind"],):
            raise UserError(f"the tokenizer's description is not that of the kind {cls.kind!r}")
        return cls({name: value for name, value in data.items() if name != "kind"})

    def save(self, path: str | Path) -> None:
        """Writes tokenizer.json, or the format that the name of the file asks for."""
        from byhand.text.load import save

        save(self, path)

    def sha256(self) -> str:
        """See `Tokenizer`."""
        return self._sha256

    @cached_property
    def _sha256(self) -> str:
        kept = {**self.to_dict(), "truncation": None, "padding": None}  # they change no ids
        return hashlib.sha256(json.dumps(kept).encode("ascii")).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PipelineTokenizer) and other.description == self.description

    def __hash__(self) -> int:
        return hash(self.sha256())

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self)} tokens>"

    def __reduce__(self) -> Any:
        return _restored, (type(self), self.description, self._seed)


def _restored(
    kind: type[PipelineTokenizer], description: Description, seed: int
) -> PipelineTokenizer:
    return kind(description, seed=seed)


def _native(token: Description) -> tuple[bytes, int, bool, bool, bool, bool, bool]:
    flags = ("special", "single_word", "lstrip", "rstrip", "normalized")
    return (token["content"].encode("utf-8"), token["id"], *(token[flag] for flag in flags))
