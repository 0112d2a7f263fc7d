"""Descriptions of small tokenizers, and what the tests of their parts share."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from byhand import _text
from byhand.text.bytes_alphabet import ALPHABET
from byhand.text.formats import parts

Description = dict[str, Any]


def added_token(id: int, content: str, **flags: bool) -> Description:
    """An added token, by default a special one that is matched in the text as it is."""
    usual = {
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    return {"id": id, "content": content, **usual, **flags}


def description(
    model: Description, added: Iterable[Description] = (), **components: Any
) -> Description:
    """A description in the form of tokenizer.json."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": list(added),
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        **components,
        "model": model,
    }


def bpe(vocab: Sequence[str], merges: Sequence[Any] = (), **options: Any) -> Description:
    """A BPE model; the index of a token is its id."""
    return parts.bpe({token: id for id, token in enumerate(vocab)}, list(merges), **options)


def byte_bpe(
    merges: Sequence[tuple[str, str]] = (), special: Iterable[str] = (), **components: Any
) -> Description:
    """A byte-level BPE: 256 bytes (id = byte), the merges in order, then the special tokens."""
    vocab = [*ALPHABET, *("".join(pair) for pair in merges)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    byte_level["use_regex"] = True
    added = [added_token(len(vocab) + i, content) for i, content in enumerate(special)]
    return description(
        bpe(vocab, [" ".join(pair) for pair in merges]),
        added,
        **{"pre_tokenizer": byte_level, "decoder": byte_level, **components},
    )


def word_level(words: Sequence[str], unk: str = "[UNK]", **components: Any) -> Description:
    """Words that are tokens."""
    vocab = {word: id for id, word in enumerate(words)}
    return description({"type": "WordLevel", "vocab": vocab, "unk_token": unk}, **components)


def counted(words: dict[str, int]) -> _text.WordCounts:
    """Words with their counts, for a trainer."""
    counts = _text.WordCounts()
    for word, count in words.items():
        counts.add(word.encode(), count)
    return counts


def random_texts(count: int, pieces: list[str], seed: int) -> list[str]:
    """Texts of 0 to 60 pieces, drawn by the seed."""
    draw = random.Random(seed)
    lengths = draw.choices([0, 1, 2, 3, 5, 8, 20, 60], k=count)
    return ["".join(draw.choices(pieces, k=length)) for length in lengths]


def huggingface(part: str, description: Any) -> Any:
    """The "normalizer" or "pre_tokenizer" that Hugging Face's library makes of a description."""
    tokenizers = pytest.importorskip("tokenizers")
    data = json.loads(tokenizers.Tokenizer(tokenizers.models.BPE()).to_str())
    return getattr(tokenizers.Tokenizer.from_str(json.dumps(data | {part: description})), part)
