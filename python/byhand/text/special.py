"""Special tokens: what they are for, and the templates that put them around texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from byhand.errors import UserError, suggestion
from byhand.text.components import flatten
from byhand.text.description import Description, require_text, whole_number

# The names that tokenizers give to special tokens; the first that a tokenizer has is taken.
ROLES: Mapping[str, tuple[str, ...]] = {
    "pad": ("[PAD]", "<pad>", "<|pad|>", "<|padding|>", "<|finetune_right_pad_id|>"),
    "unk": ("[UNK]", "<unk>", "<|unk|>"),
    "cls": ("[CLS]", "<cls>"),
    "sep": ("[SEP]", "<sep>"),
    "mask": ("[MASK]", "<mask>", "<|mask|>"),
    "bos": (
        "[SOS]",
        "[BOS]",
        "<s>",
        "<bos>",
        "<|begin_of_text|>",
        "<|startoftext|>",
        "<|im_start|>",
        "<|endoftext|>",
    ),
    "eos": (
        "[EOS]",
        "</s>",
        "<eos>",
        "<|eot_id|>",
        "<|end_of_text|>",
        "<|im_end|>",
        "<|endoftext|>",
    ),
}


@dataclass(frozen=True)
class Part:
    """A part of a template: the ids of a special token, or the text A (0) or B (1)."""

    text: int | None
    ids: tuple[int, ...]
    segment: int


Template = tuple[Part, ...]
_A, _B = Part(0, (), 0), Part(1, (), 1)


@dataclass(frozen=True)
class PostProcessor:
    """What is done to the tokens of one text and of a pair of texts.

    Attributes:
        single, pair: the templates.
        trims: how white space is taken from the offsets of tokens, in order: for each step, whether
            the first token begins with a space that is not in the text.
        cls, sep: the special tokens that BERT's and RoBERTa's post-processors name.
    """

    single: Template = (_A,)
    pair: Template = (_A, _B)
    trims: tuple[bool, ...] = ()
    cls: str | None = None
    sep: str | None = None

    def apply(
        self, texts: Sequence[Any], add_special_tokens: bool, special: Any
    ) -> list[tuple[Any, int]]:
        """The parts in order, each with its segment: texts[0], texts[1] or special(ids)."""
        template = self.single if len(texts) == 1 else self.pair
        return [
            (special(part.ids) if part.text is None else texts[part.text], part.segment)
            for part in template
            if add_special_tokens or part.text is not None
        ]

    def around_each(self, rows: list[Any]) -> list[Any]:
        """Each row of ids, int64 (n,), as the template of one text orders it and special tokens."""
        texts = [i for i, part in enumerate(self.single) if part.text is not None]
        sides = [self.single[a + 1 : b] for a, b in pairwise((-1, *texts, len(self.single)))]
        ids = [np.array([id for part in side for id in part.ids], np.int64) for side in sides]
        if len(ids) == 2 and not len(ids[0]) and not len(ids[1]):
            return rows
        return [
            np.concatenate([part for side in ids[:-1] for part in (side, row)] + [ids[-1]])
            for row in rows
        ]

    def added(self, texts: int) -> int:
        """How many special tokens are added to one text, or to two."""
        return sum(len(part.ids) for part in (self.single if texts == 1 else self.pair))


def make(description: Description | None, size: int) -> PostProcessor:
    """The post-processor of a description, for a vocabulary of this size. UserError if the
    description is wrong.
    """
    made = PostProcessor()
    trims: tuple[bool, ...] = ()
    for part in flatten(description, "post-processor"):
        kind = part["type"]
        if kind not in (known := (*_KINDS, "ByteLevel")):
            near = suggestion(kind, known)
            raise UserError(f"the post-processor {kind!r:.60} is not supported{near}")
        if kind in ("ByteLevel", "RobertaProcessing") and _flag(part, "trim_offsets"):
            trims += (_flag(part, "add_prefix_space"),)
        if kind == "ByteLevel":
            continue
        if made != PostProcessor():
            raise UserError("two post-processors that add special tokens are not supported yet")
        made = _KINDS[kind](part)
    for piece in (*made.single, *made.pair):
        for id in piece.ids:
            if id >= size:
                raise UserError(
                    f"the post-processor adds the token id {id}, which is outside the vocabulary "
                    f"0..{size - 1}"
                )
    return PostProcessor(made.single, made.pair, trims, made.cls, made.sep)


def _flag(part: Description, name: str) -> bool:
    value = part.get(name, True)
    if not isinstance(value, bool):
        raise UserError(f'"{name}" of the post-processor {part["type"]} is not true or false')
    return value


def _named(part: Description, name: str) -> tuple[str, tuple[int, ...]]:
    pair = part.get(name)
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not whole_number(pair[1]):
        raise UserError(
            f'the "{name}" of the post-processor {part["type"]} is a token with its id, '
            f"not {pair!r:.60}"
        )
    return require_text(pair[0], f'"{name}"'), (pair[1],)


def _bert(part: Description) -> PostProcessor:
    (cls, cls_ids), (sep, sep_ids) = _named(part, "cls"), _named(part, "sep")
    single = (Part(None, cls_ids, 0), _A, Part(None, sep_ids, 0))
    return PostProcessor(single, (*single, _B, Part(None, sep_ids, 1)), (), cls, sep)


def _roberta(part: Description) -> PostProcessor:
    (cls, cls_ids), (sep, sep_ids) = _named(part, "cls"), _named(part, "sep")
    end = Part(None, sep_ids, 0)
    single = (Part(None, cls_ids, 0), _A, end)
    return PostProcessor(single, (*single, end, Part(1, (), 0), end), (), cls, sep)


def _template(part: Description) -> PostProcessor:
    tokens = part.get("special_tokens", {})
    if isinstance(tokens, list):
        tokens = {t.get("id"): t for t in tokens if isinstance(t, dict)}
    if not isinstance(tokens, dict):
        raise UserError('the "special_tokens" of TemplateProcessing are an object')
    single = _pieces(part.get("single"), tokens)
    pair = _pieces(part.get("pair") or [_written(p) for p in (_A, _B)], tokens)
    if [p.text for p in single if p.text is not None] != [0]:
        raise UserError("the template of one text has the text A once")
    if sorted(p.text for p in pair if p.text is not None) != [0, 1]:
        raise UserError("the template of two texts has the texts A and B once")
    return PostProcessor(single, pair)


def _written(part: Part) -> Description:
    return {"Sequence": {"id": "AB"[part.text or 0], "type_id": part.segment}}


def _pieces(listed: object, tokens: Mapping[Any, Any]) -> Template:
    if isinstance(listed, str):
        listed = [_parsed(word) for word in listed.split()]
    if not isinstance(listed, list):
        raise UserError("a template is a list of parts")
    return tuple(_piece(part, tokens) for part in listed)


def _parsed(word: str) -> Description:
    """A part in short, such as "[CLS]", "[SEP]:1", "$A", "$B:1", "$" or "$1"."""
    name, colon, segment = word.rpartition(":")
    if not colon or not segment.isdecimal():
        name, segment = word, "0"
    if not name.startswith("$"):
        return {"SpecialToken": {"id": name, "type_id": int(segment)}}
    rest = name[1:]
    if rest.isdecimal():
        rest, segment = "A", rest
    text = "B" if rest in ("B", "b") else "A"
    return {"Sequence": {"id": text, "type_id": int(segment)}}


def _piece(part: object, tokens: Mapping[Any, Any]) -> Part:
    kind, fields = next(iter(part.items())) if isinstance(part, dict) and part else (None, None)
    fields = fields if isinstance(fields, dict) else {}
    name, segment = fields.get("id"), fields.get("type_id", 0)
    if not whole_number(segment) or segment >= 2**31:
        raise UserError(f"the type_id of a part of a template cannot be {segment!r:.60}")
    if kind == "Sequence" and name in ("A", "B"):
        return Part("AB".index(name), (), segment)
    if kind != "SpecialToken" or not isinstance(name, str):
        raise UserError(f"a part of a template is a Sequence or a SpecialToken, not {part!r:.60}")
    token = tokens.get(name)
    ids = token.get("ids") if isinstance(token, dict) else None
    if not isinstance(ids, list) or not all(map(whole_number, ids)):
        raise UserError(f"the template has the special token {name!r}, which it gives no ids")
    return Part(None, tuple(ids), segment)


_KINDS = {
    "BertProcessing": _bert,
    "RobertaProcessing": _roberta,
    "TemplateProcessing": _template,
}


def roles(
    tokens: Mapping[str, int], unk: str | None, post_processor: PostProcessor
) -> dict[str, str | None]:
    """The token of each role in ROLES, or None: `unk` and what the post-processor names; else the
    first of the usual names among `tokens`.
    """
    known = {"unk": unk, "cls": post_processor.cls, "sep": post_processor.sep}
    return {
        role: known.get(role) or next((name for name in names if name in tokens), None)
        for role, names in ROLES.items()
    }


# White space in tokens: "Ġ" is the space of byte-level vocabularies.
_SPACES = (
    "\u0120\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009"
    "\u200a\u2028\u2029\u202f\u205f\u3000"
)


def trim(tokens: Sequence[str], offsets: npt.NDArray[np.int64], keep_first: bool) -> None:
    """Takes the spaces at the ends of tokens from their offsets, (len(tokens), 2), in place. With
    `keep_first`, the space that begins the first token is not in the text.
    """
    for i, token in enumerate(tokens):
        left = len(token) - len(token.lstrip(_SPACES))
        right = len(token) - len(token.rstrip(_SPACES))
        begin, end = offsets[i].tolist()
        if left:
            if keep_first and (i == 0 or begin == 0):
                left -= 1
            begin = min(begin + left, end)
        if right and end >= right:
            end = max(end - right, begin)
        offsets[i] = begin, end
