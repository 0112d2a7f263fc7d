"""The bytes of tokens: joined, they are the text that `decode` gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from byhand.errors import UserError
from byhand.text import (
    BPETokenizer,
    CharacterTokenizer,
    UnigramTokenizer,
    WordPieceTokenizer,
    WordTokenizer,
    load,
)
from byhand.text.bpe import BPETokenizer as FromDescription
from byhand.text.token_bytes import token_bytes
from tests.text.made_files import gpt2_files, tiktoken_file
from tests.text.parts import added_token, byte_bpe

NAMES = (
    *("character", "bpe", "characters of bpe", "unigram", "lossless words"),
    *("gpt2", "tiktoken"),
)
TEXT = "the café is near the canal. 日本 the end, the cat\n" * 5


def tokenizers(folder: Path) -> dict[str, object]:
    return {
        "character": CharacterTokenizer.from_text(TEXT),
        "bpe": BPETokenizer.train(TEXT, 300, special_tokens=["<|endoftext|>"]),
        "characters of bpe": BPETokenizer.train(TEXT, 60, byte_level=False),
        "unigram": UnigramTokenizer.train(TEXT, 60),
        "lossless words": WordTokenizer.train(TEXT, lossless=True),
        "gpt2": load(gpt2_files(folder)[0].parent),
        "tiktoken": load(tiktoken_file(folder)),
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_bytes_behind_a_prompt_are_those_of_decode(name: str, tmp_path: Path):
    tokenizer = tokenizers(tmp_path)[name]
    known = token_bytes(tokenizer)
    assert len(known) == len(tokenizer)
    written = np.flatnonzero([len(token) > 0 for token in known])
    assert len(written) > len(known) / 2
    rng = np.random.default_rng(0)
    prompt = tokenizer.encode("the ")
    before = tokenizer.decode(prompt).encode()
    for _ in range(50):
        ids = rng.choice(written, rng.integers(1, 8))
        expected = (before + b"".join(known[id] for id in ids)).decode("utf-8", "replace")
        assert tokenizer.decode(np.concatenate([prompt, ids])) == expected


def test_special_and_unknown_tokens_write_nothing():
    tokenizer = BPETokenizer.train(TEXT, 60, byte_level=False, special_tokens=["<unk>", "</s>"])
    known = token_bytes(tokenizer)
    assert known[tokenizer.unk_token_id] == known[tokenizer.eos_token_id] == b""


def test_an_added_token_that_is_not_special_is_text():
    description = byte_bpe([("a", "b")])
    description["added_tokens"] = [added_token(257, "日x", special=False)]
    tokenizer = FromDescription(description)
    assert token_bytes(tokenizer)[257] == "日x".encode() == tokenizer.decode([257]).encode()


@pytest.mark.parametrize("kind", [WordTokenizer, WordPieceTokenizer])
def test_tokens_between_which_spaces_are_put_are_refused(kind: type):
    with pytest.raises(UserError, match="write spaces that depend on their place"):
        token_bytes(kind.train(TEXT, 200))


def test_another_object_is_refused():
    with pytest.raises(UserError, match="tokens of int are not known"):
        token_bytes(3)
